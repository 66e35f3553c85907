// Uses of the adapters that have to compile, and wrong ones that must not.

import type { Executor } from '@cloudflare/codemode';
import { createBrowserCodeTool } from '@cloudflare/codemode/browser';
import { generateText, type LanguageModel, type ToolSet } from 'ai';
import { buildTemplate } from 'isola-core';
import { codeSession, codeTool, type CodeOutput } from 'isola-core/ai-sdk';
import { IsolaExecutor } from 'isola-core/codemode';

const template = await buildTemplate('js');
const executor: Executor = new IsolaExecutor({ template, timeoutMs: 5, limits: { maxStorage: 0 } });
createBrowserCodeTool({ executor, tools: {} });
const { result, error, logs } = await new IsolaExecutor().execute('1', [], {
  signal: AbortSignal.timeout(5),
});
const parts: [unknown, string | undefined, string[] | undefined] = [result, error, logs];

// @ts-expect-error: the option is `timeoutMs`.
new IsolaExecutor({ timeout: 5 });
// @ts-expect-error: it is a number.
new IsolaExecutor({ cpuTimeoutMs: '5' });

declare const tools: ToolSet;
declare const model: LanguageModel;
const run = await codeTool({ runtime: 'js', tools, template, maxOutputChars: 10 });
await using session = await codeSession({ http: true });
const done = await generateText({ model, tools: { run, again: session.tool }, prompt: 'x' });
for (const { output, dynamic } of done.toolResults) {
  if (dynamic) continue;
  const typed: CodeOutput = output;
  const failed: string | undefined = typed.error?.traceback;
  parts.push(failed);
}

// @ts-expect-error: there is no such runtime.
await codeTool({ runtime: 'ruby' });
// @ts-expect-error: tools are an object.
await codeSession({ tools: [] });
