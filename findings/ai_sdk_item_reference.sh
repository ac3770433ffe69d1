#!/usr/bin/env bash
# @ai-sdk/openai 3.0.141 with ai 6.0.326: the second turn of a chat names the first answer by its id alone.
#
# A chat goes on by sending `response.messages` of the last call with the next question. An engineer who points the provider
# at a server of his own (createOpenAI({ baseURL })) expects the answer's text in them, as in a chat completion. The provider
# speaks /v1/responses by default, and puts {"type": "item_reference", "id": ...} in its place: what the server has stored.
# A server that stores nothing cannot know it, so the first turn works and every later one fails.
# `providerOptions: { openai: { store: false } }` sends the text; so does `openai.chat(model)`, by /v1/chat/completions.
#
# Seen: by default: {"type":"item_reference"}. store false: {"role":"assistant","text":"blue"}.
set -euo pipefail
command -v npm > /dev/null || { echo "needs Node.js and npm"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo '{"type": "module", "private": true}' > package.json
npm install --silent --no-fund --no-audit ai@6.0.326 @ai-sdk/openai@3.0.141
cat > turns.mjs <<'JAVASCRIPT'
import assert from "node:assert";
import http from "node:http";
import { generateText } from "ai";
import { createOpenAI } from "@ai-sdk/openai";

// A server that records what it is sent, and always answers "blue".
const inputs = [];
const server = http.createServer((request, response) => {
  let text = "";
  request.on("data", (part) => (text += part));
  request.on("end", () => {
    inputs.push(JSON.parse(text).input);
    const number = inputs.length;
    const content = [{ type: "output_text", text: "blue", annotations: [] }];
    const message = { id: `msg_${number}`, type: "message", role: "assistant", status: "completed", content };
    const usage = { input_tokens: 1, output_tokens: 1, total_tokens: 2 };
    const head = { id: `resp_${number}`, object: "response", created_at: 1, status: "completed", model: "m" };
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ ...head, error: null, incomplete_details: null, output: [message], usage }));
  });
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const openai = createOpenAI({ baseURL: `http://127.0.0.1:${server.address().port}/v1`, apiKey: "none" });

async function firstAnswerInSecondTurn(options) {
  const question = { role: "user", content: "Which colour?" };
  const first = await generateText({ model: openai("m"), messages: [question], ...options });
  const messages = [question, ...first.response.messages, { role: "user", content: "Sure?" }];
  await generateText({ model: openai("m"), messages, ...options });
  const { type, role, content } = inputs.at(-1)[1];
  return { type, role, text: content?.[0].text };
}

const usual = await firstAnswerInSecondTurn({});
console.log("by default:", JSON.stringify(usual));
const told = await firstAnswerInSecondTurn({ providerOptions: { openai: { store: false } } });
console.log("store false:", JSON.stringify(told));
server.close();
assert.deepStrictEqual(usual.type, "item_reference", "CHANGED: the answer itself is sent by default");
assert.deepStrictEqual(told.text, "blue", "CHANGED: store false does not send the answer");
JAVASCRIPT
node turns.mjs
echo "as described: earlier answers are references unless store is false"
