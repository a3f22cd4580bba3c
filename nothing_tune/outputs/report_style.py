"""The looks of a report: one style sheet for screens, light and dark,
and for paper. No fonts or pictures from elsewhere."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fcfcfa; --ink: #24282d; --quiet: #6b7178; --faint: #e4e4df; --wash: #f4f4f0;
  --good: #2f7a53; --bad: #b0433b; --warn: #94690b;
  --c0: #2f6f9f; --c1: #c2703d; --c2: #4c8a57; --c3: #8a5a9e; --c4: #a8882a; --c5: #5f6b77; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #17191c; --ink: #dcdedf; --quiet: #9299a1; --faint: #2d3136; --wash: #1e2125;
  --good: #74b98f; --bad: #e0867d; --warn: #d3ab54;
  --c0: #77b2dd; --c1: #e09a6b; --c2: #84bd8d; --c3: #bd93cf; --c4: #d2b65f; --c5: #a3adb8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 ui-sans-serif, system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 940px; margin: 0 auto; padding: 56px 32px 80px; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 600; letter-spacing: -.015em; margin: 0 0 6px; }
h2 { font-size: 19px; font-weight: 600; letter-spacing: -.01em; margin: 46px 0 14px; padding-top: 18px;
  border-top: 1px solid var(--faint); }
h3 .quiet { font-weight: 400; }
h3 { font-size: 14px; font-weight: 600; margin: 26px 0 8px; }
p { margin: 0 0 10px; max-width: 70ch; }
a { color: inherit; }
.quiet, .tick { color: var(--quiet); }
.lead { font-size: 16px; margin: 0 0 4px; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .87em; }
code { overflow-wrap: anywhere; }
pre { background: var(--wash); border-radius: 6px; padding: 12px 14px; margin: 0 0 10px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 22px 0 0; font-size: 13.5px; }
nav a { color: var(--quiet); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; text-underline-offset: 3px; }
.state { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(106px, 1fr)); gap: 20px 18px;
  margin: 30px 0 0; padding: 0; }
.figures div { margin: 0; } .figures dt { color: var(--quiet); font-size: 13px; }
.figures dd { margin: 0; font-size: 20px; font-weight: 600;
  letter-spacing: -.01em; line-height: 1.3; }
.figures small { display: block; font-size: 12.5px; font-weight: 400; color: var(--quiet); letter-spacing: 0; }
dl.facts { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 5px 24px; margin: 0 0 10px; }
dl.facts dt { color: var(--quiet); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 0 0 12px; font-size: 14px; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: 13px; padding: 4px 18px 6px 0;
  border-bottom: 1px solid var(--faint); vertical-align: bottom; }
td { padding: 5px 18px 5px 0; border-bottom: 1px solid var(--faint); vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; } .best { font-weight: 600; }
td.section { color: var(--quiet); font-weight: 600; padding-top: 16px; border-bottom: 0; }
td.origin { color: var(--quiet); font-size: 12.5px; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 28px; } .charts .whole { grid-column: 1 / -1; }
figure { margin: 0 0 14px; break-inside: avoid; }
figcaption { font-size: 13.5px; font-weight: 600; margin: 0 0 4px; }
figcaption span { font-weight: 400; color: var(--quiet); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11.5px ui-sans-serif, system-ui, sans-serif; fill: var(--quiet);
  font-variant-numeric: tabular-nums; } .grid { stroke: var(--faint); fill: none; }
.mark { stroke: var(--quiet); stroke-dasharray: 2 4; fill: none; opacity: .6; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.dot { stroke-width: 1.6; fill: var(--paper); }
svg .end { font-weight: 600; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
svg text.c0, b.c0 { fill: var(--c0); color: var(--c0); stroke: none; }
svg text.c1, b.c1 { fill: var(--c1); color: var(--c1); stroke: none; }
svg text.c2, b.c2 { fill: var(--c2); color: var(--c2); stroke: none; }
svg text.c3, b.c3 { fill: var(--c3); color: var(--c3); stroke: none; }
svg text.c4, b.c4 { fill: var(--c4); color: var(--c4); stroke: none; }
svg text.c5, b.c5 { fill: var(--c5); color: var(--c5); stroke: none; }
.ring { stroke-width: 2.4; }
.sample { break-inside: avoid; margin: 0 0 18px; padding: 0 0 0 16px; border-left: 2px solid var(--faint); }
.sample .said { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 8px; max-width: 78ch; }
.sample .who { color: var(--quiet); font-size: 12.5px; margin: 0; }
ul.plain { list-style: none; margin: 0 0 10px; padding: 0; } ul.plain li { padding: 4px 0; overflow-wrap: anywhere; }
footer { margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--faint); color: var(--quiet);
  font-size: 13px; }
@media (max-width: 640px) { main { padding: 32px 18px 56px; } .charts { grid-template-columns: 1fr; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #16181a; --quiet: #5a6067; --faint: #dadad6;
  --wash: #f6f6f4; --good: #24633f; --bad: #93312a; --warn: #76520a;
  --c0: #2f6f9f; --c1: #b5622f; --c2: #3f7a4a; --c3: #7a4c8e; --c4: #8f721d; --c5: #525c66; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; }
h2 { break-after: avoid; margin-top: 30px; } tr, pre { break-inside: avoid; }
  .wide { overflow: visible; } @page { margin: 18mm 16mm; } }
""".strip()
"""CSS of the page."""
