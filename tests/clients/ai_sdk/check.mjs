// The Vercel AI SDK: chat completions, responses, and the Anthropic API.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const base = process.env.SEMSHARE_BASE ?? "http://127.0.0.1:8000";
const model = "tiny-llama";
const openai = createOpenAI({ baseURL: `${base}/v1`, apiKey: "none" });
const anthropic = createAnthropic({ baseURL: `${base}/v1`, apiKey: "none" });
const models = [openai.chat(model), openai.responses(model), anthropic(model)];

const said = "It is so: Rain in Rome.";
const hello = "Hello there, you.";
const weather = tool({
  description: "Weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `Rain in ${city}.`,
});

const checks = {
  async chat(model) {
    const got = await generateText({ model, prompt: "Hi", instructions: "Be brief.", maxOutputTokens: 100 });
    assert.equal(got.text, hello);
    assert.ok(got.usage.inputTokens > 0);
  },
  async stream(model) {
    const got = streamText({ model, prompt: "Hi" });
    let text = "";
    for await (const part of got.textStream) text += part;
    assert.equal(text, hello);
    assert.equal(await got.finishReason, "stop");
  },
  async tools(model) {
    const messages = [{ role: "user", content: "How is it in Rome?" }];
    const got = await generateText({ model, messages, tools: { weather }, stopWhen: stepCountIs(3) });
    assert.equal(got.text, said);
    assert.equal(got.steps.length, 2);
    const told = got.responseMessages ?? got.response.messages;
    const on = [...messages, ...told, { role: "user", content: "And now?" }];
    const again = streamText({ model, messages: on, tools: { weather }, stopWhen: stepCountIs(3) });
    assert.equal(await again.text, said);
  },
  async structured(model) {
    const output = Output.object({ schema: z.object({ city: z.string(), days: z.number() }) });
    const got = await generateText({ model, prompt: "a trip", output });
    assert.deepEqual(got.output, { city: "Rome", days: 3 });
  },
};

let failed = 0;
const began = performance.now();
for (const model of models) {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check(model);
    } catch (error) {
      failed += 1;
      console.error(model.provider, name, error?.message, error?.responseBody ?? "", error?.stack);
    }
  }
}
console.log(`ai_sdk: ${failed ? "FAILED" : "fine"}, ${((performance.now() - began) / 1000).toFixed(1)} s`);
process.exit(failed ? 1 : 0);
