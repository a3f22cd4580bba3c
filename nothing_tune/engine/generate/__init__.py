"""`tune data generate`: a generator answers prompts, and another model is trained on the answers.

    prompts -> schedule -> endpoint | local -> ledger -> filters -> compose

`job` is the process; `ledger` is what makes it resumable: every answer is in a file before anything else happens to it. What is
taken is decided anew from that file each time, in its order, so that filters may change without a question asked again.
"""
