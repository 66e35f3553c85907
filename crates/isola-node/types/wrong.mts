// Invalid code that must not compile. An `@ts-expect-error` over a valid line is an
// error itself.

import { Arg, Files, Sandbox, SandboxTemplate, StreamArg, buildTemplate, resolveRuntime } from "isola-core";
import type { Event, HttpResponse, MountConfig } from "isola-core";

export async function wrong(template: SandboxTemplate, sandbox: Sandbox): Promise<void> {
  // @ts-expect-error: there is no such runtime
  await buildTemplate("ruby");
  // @ts-expect-error: there is no such option
  await buildTemplate("js", { memory: 1 });
  // @ts-expect-error: a number of bytes
  await buildTemplate("js", { maxMemory: "64 MiB" });
  // @ts-expect-error: a string, or null
  await buildTemplate("js", { cacheDir: false });
  // @ts-expect-error: values are strings
  await template.create({ env: { KEY: 1 } });
  // @ts-expect-error: a function
  await template.create({ hostcalls: { f: 1 } });
  // @ts-expect-error: a response has a status
  await template.create({ http: async () => ({ body: null }) });
  // @ts-expect-error: a body is not a string
  await template.create({ http: async () => ({ status: 200, body: "text" }) });
  // @ts-expect-error: a body is a stream only with `httpRequestBody: "stream"`
  await template.create({ http: async (request) => ({ status: 200, body: request.body?.getReader() }) });
  // @ts-expect-error: the arguments are an array
  await sandbox.run("echo", { hello: "world" });
  // @ts-expect-error: a function is not a value
  await sandbox.run("echo", [() => 1]);
  // @ts-expect-error: undefined is not a value
  await sandbox.run("echo", [undefined]);
  // @ts-expect-error: milliseconds are a number
  await sandbox.run("echo", [], {}, { timeoutMs: "1s" });
  // @ts-expect-error: there is no such option
  await sandbox.start({ timeout: 1 });
  // @ts-expect-error: the name of an argument is a string
  new Arg(1, 2);
  // @ts-expect-error: a stream is an argument of its own, and no part of one
  await sandbox.run("echo", [[new StreamArg()]]);
  // @ts-expect-error: an iterable that is not in a stream is not a value
  await sandbox.run("echo", [new Set([1])]);
  // @ts-expect-error: the values of a stream come from an iterable
  StreamArg.from(5);
  // @ts-expect-error: a function is not a value
  await new StreamArg().send(() => 1);
  // @ts-expect-error: a capacity is a number
  new StreamArg({ capacity: "5" });
  // @ts-expect-error: the code is a string
  await sandbox.evaluate(1);
  // @ts-expect-error: evaluated code has no name
  await sandbox.evaluate("1", { name: "x" });
  // @ts-expect-error: a path is a string
  await sandbox.files.read(1);
  // @ts-expect-error: the content is text or bytes
  await sandbox.files.write("x", [1]);
  // @ts-expect-error: arguments are strings
  await template.create({ arguments: [1] });
  // @ts-expect-error: there is no such option
  await sandbox.runCode("1", { name: "x" });
  // @ts-expect-error: a listener is a function
  await sandbox.runCode("1", { onStdout: "x" });
  // @ts-expect-error: an execution has no value
  (await sandbox.runCode("1")).value;
  // @ts-expect-error: the files are those of a sandbox
  new Files();
  // @ts-expect-error: a resolved runtime is not compiled
  await resolveRuntime("js", { cacheDir: null });
  // @ts-expect-error: a sandbox is created by a template
  new Sandbox();
  // @ts-expect-error: a template is created by buildTemplate
  new SandboxTemplate();
  // @ts-expect-error: a result may be of any type
  const text: string = await sandbox.run("echo");
  // @ts-expect-error: there is no such permission
  const mount: MountConfig = { host: ".", guest: "/data", dir_perms: "rw" };
  // @ts-expect-error: there is no such event
  const event: Event = { type: "exit", data: 0 };
  // @ts-expect-error: a status is a number
  const response: HttpResponse = { status: "200" };
  // @ts-expect-error: the events are an asynchronous iterable
  for (const single of sandbox.runStream("f")) console.log(single);
  console.log(text, mount, event, response);
}
