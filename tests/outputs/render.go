// Renders chat templates as Ollama does: Go's text/template, messages of the same role as one, system messages together.
//
// in:  [{"template": "...", "messages": [{"role", "content", "tool_calls"}], "tools": [...]}] on stdin
// out: [{"text": "...", "error": "..."}] on stdout
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Function struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

type ToolCall struct {
	Function Function `json:"function"`
}

type Message struct {
	Role      string     `json:"role"`
	Content   string     `json:"content"`
	ToolCalls []ToolCall `json:"tool_calls"`
}

type Request struct {
	Template string            `json:"template"`
	Messages []*Message        `json:"messages"`
	Tools    []json.RawMessage `json:"tools"`
}

type Answer struct {
	Text  string `json:"text"`
	Error string `json:"error"`
}

func render(request Request) (string, error) {
	functions := template.FuncMap{"json": func(v any) string {
		text, _ := json.Marshal(v)
		return string(text)
	}}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(request.Template)
	if err != nil {
		return "", err
	}
	var system []string
	var messages []*Message
	for _, message := range request.Messages {
		if message.Role == "system" {
			system = append(system, message.Content)
		}
		if n := len(messages); n > 0 && messages[n-1].Role == message.Role && message.Role != "tool" {
			messages[n-1].Content += "\n\n" + message.Content
		} else {
			messages = append(messages, message)
		}
	}
	var out bytes.Buffer
	err = parsed.Execute(&out, map[string]any{
		"System": strings.Join(system, "\n\n"), "Messages": messages, "Tools": request.Tools, "Response": "",
	})
	return out.String(), err
}

func main() {
	var requests []Request
	if err := json.NewDecoder(os.Stdin).Decode(&requests); err != nil {
		panic(err)
	}
	answers := []Answer{}
	for _, request := range requests {
		text, err := render(request)
		answer := Answer{Text: text}
		if err != nil {
			answer.Error = err.Error()
		}
		answers = append(answers, answer)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.Encode(answers)
}
