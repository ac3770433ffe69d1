// openai (npm), ai with @ai-sdk/openai-compatible and @ai-sdk/openai.
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { generateObject, generateText, jsonSchema, streamObject, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const BASE = process.env.MINICPMV_TEST_SERVER;
const MODEL = "nano", KEY = "key";
const PICTURE = readFileSync(process.env.MINICPMV_TEST_PICTURE);
const PICTURE_URL = "data:image/png;base64," + PICTURE.toString("base64");
const QUESTION = "What colour is the star?", EXPECTED = "purple";
const COLOURS = ["red", "purple", "green"];
const PARAMETERS = {
  type: "object",
  properties: { colour: { type: "string", enum: COLOURS } },
  required: ["colour"],
  additionalProperties: false,
};

const versionOf = (name) =>
  JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
const cases = [];
const test = (client, name, run) => cases.push([client, name, run]);
function expect(found, wanted) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`found ${a}, expected ${b}`);
}
function isColour(text) {
  if (!text?.includes(EXPECTED)) throw new Error(`found ${text}, expected ${EXPECTED} in it`);
}
async function refused(named, ask) {
  let error = null;
  try { await ask(); } catch (caught) { error = caught; }
  if (!error) throw new Error(`it was answered, expected an error about ${named}`);
  if (!String(error.message).includes(named)) throw error;
}

// openai (npm)

const openai = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY, maxRetries: 0 });
const NODE = `openai npm ${versionOf("openai")}`;
const chat = (rest) => openai.chat.completions.create({ model: MODEL, ...rest });
const HELLO = [{ role: "user", content: "Hello" }];
const LOOK = [{
  role: "user",
  content: [{ type: "image_url", image_url: { url: PICTURE_URL } }, { type: "text", text: QUESTION }],
}];
const INPUT = [{
  role: "user",
  content: [{ type: "input_image", image_url: PICTURE_URL }, { type: "input_text", text: QUESTION }],
}];
const FUNCTION = { name: "tell", description: "Tell the colour.", parameters: PARAMETERS };

test(NODE, "plain", async () => {
  const answer = await chat({ messages: HELLO });
  if (!answer.choices[0].message.content) throw new Error("no text");
  expect(answer.choices[0].finish_reason, "stop");
});
test(NODE, "stream", async () => {
  const stream = openai.chat.completions.stream({ model: MODEL, messages: LOOK, stream_options: { include_usage: true } });
  let text = "";
  stream.on("content", (delta) => { text += delta; });
  const final = await stream.finalChatCompletion();
  isColour(text);
  expect(final.choices[0].message.content, text);
  if (!(await stream.totalUsage()).total_tokens) throw new Error("no usage");
});
test(NODE, "picture", async () => {
  isColour((await chat({ messages: LOOK })).choices[0].message.content);
  isColour((await openai.responses.create({ model: MODEL, input: INPUT })).output_text);
  const stream = openai.responses.stream({ model: MODEL, input: INPUT });
  isColour((await stream.finalResponse()).output_text);
});
test(NODE, "structured", async () => {
  const schema = { name: "seen", schema: PARAMETERS, strict: true };
  const answer = await openai.chat.completions.parse({
    model: MODEL, messages: LOOK, response_format: { type: "json_schema", json_schema: schema },
  });
  expect(COLOURS.includes(JSON.parse(answer.choices[0].message.content).colour), true);
});
test(NODE, "tools", async () => {
  const answer = await chat({ messages: LOOK, tools: [{ type: "function", function: FUNCTION }], tool_choice: "required" });
  const [call] = answer.choices[0].message.tool_calls;
  expect(call.function.name, "tell");
  expect(COLOURS.includes(JSON.parse(call.function.arguments).colour), true);
});
test(NODE, "bad parameter", () => refused("temperature", () => chat({ messages: HELLO, temperature: 9 })));

// ai

const providers = {
  [`ai ${versionOf("ai")} openai-compatible`]: [
    createOpenAICompatible({ name: "minicpmv", baseURL: `${BASE}/v1`, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true })(MODEL), "temperature",
  ],
  [`ai ${versionOf("ai")} openai (responses)`]: [createOpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY })(MODEL), "temperature"],
  [`ai ${versionOf("ai")} openai (chat)`]: [createOpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY }).chat(MODEL), "temperature"],
};
const messages = [{
  role: "user",
  content: [{ type: "image", image: PICTURE }, { type: "text", text: QUESTION }],
}];
for (const [name, [model, bad]] of Object.entries(providers)) {
  const common = { model, maxRetries: 0 };
  test(name, "plain", async () => {
    const answer = await generateText({ ...common, prompt: "Hello", maxOutputTokens: 40 });
    if (!answer.text) throw new Error("no text");
    expect(answer.finishReason, "stop");
    if (!answer.usage.inputTokens) throw new Error("no usage");
    const again = await generateText({
      ...common,
      providerOptions: { openai: { store: false } }, // otherwise it refers to the items of the first
      messages: [{ role: "user", content: "Hello" }, ...answer.response.messages, { role: "user", content: "Hello again" }],
    });
    if (!again.text) throw new Error("no second text");
  });
  test(name, "stream", async () => {
    let failure = null;
    const stream = streamText({ ...common, messages, onError: ({ error }) => { failure = error; } });
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    if (failure) throw failure;
    isColour(text);
    expect(await stream.finishReason, "stop");
    if (!(await stream.usage).outputTokens) throw new Error("no usage");
  });
  test(name, "picture", async () => isColour((await generateText({ ...common, messages })).text));
  test(name, "structured", async () => {
    const schema = jsonSchema(PARAMETERS);
    const { object } = await generateObject({ ...common, messages, schema });
    expect(COLOURS.includes(object.colour), true);
    const stream = streamObject({ ...common, messages, schema });
    for await (const partial of stream.partialObjectStream) void partial;
    expect(await stream.object, object);
  });
  test(name, "tools", async () => {
    const tools = { tell: tool({ description: "Tell the colour.", inputSchema: jsonSchema(PARAMETERS) }) };
    for (const toolChoice of ["required", { type: "tool", toolName: "tell" }]) {
      const answer = await generateText({ ...common, messages, tools, toolChoice });
      expect(answer.toolCalls.length, 1);
      expect(COLOURS.includes(answer.toolCalls[0].input.colour), true);
      const stream = streamText({ ...common, messages, tools, toolChoice });
      await stream.consumeStream();
      expect((await stream.toolCalls)[0].input, answer.toolCalls[0].input);
    }
  });
  test(name, "bad parameter", () => refused(bad, () => generateText({ ...common, prompt: "Hello", temperature: 9 })));
}

for (const [client, name, run] of cases) {
  let problem = "";
  try { await run(); } catch (error) {
    problem = `${error.name}: ${error.message}`;
    console.error(error);
  }
  console.log(JSON.stringify({ client, case: name, problem }));
}
