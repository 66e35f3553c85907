// Valid code that must compile, with each option, class and form.

import {
  Arg,
  AbortError,
  Contexts,
  Execution,
  FileError,
  Files,
  IsolaError,
  LimitError,
  Result,
  Sandbox,
  SandboxContext,
  SandboxTemplate,
  Snapshot,
  SnapshotError,
  StreamArg,
  StreamClosedError,
  buildTemplate,
  resolveRuntime,
} from 'isola-core';
import type {
  CallOptions,
  CodeOptions,
  Context,
  Event,
  ExecutionError,
  FileEntry,
  FileKind,
  FileStat,
  HttpRequest,
  HttpResponse,
  JsonValue,
  MountConfig,
  RuntimeConfig,
  RuntimeOptions,
  StreamOptions,
  TemplateConfig,
} from 'isola-core';

const mount: MountConfig = {
  host: './data',
  guest: '/data',
  dir_perms: 'read',
  file_perms: 'read-write',
};
const config: TemplateConfig = {
  runtimePath: './python.wasm',
  version: '0.1.0',
  cacheDir: null,
  reuseMemory: false,
  maxMemory: 64 * 1024 * 1024,
  prelude: 'x = 1',
  runtimeLibDir: './lib',
  mounts: [mount],
  env: { KEY: 'value' },
  limits: { cpuTimeoutMs: Infinity, maxHandles: 3 },
  downloadUrl: 'https://example.test/releases',
  runtimesDir: './runtimes',
  runtimeSha256: '00',
  onProgress: (progress) => {
    if (progress.phase === 'download') console.log(progress.received, progress.total);
  },
};

export async function everything(): Promise<void> {
  await using context = new SandboxContext();
  const template: SandboxTemplate = await context.buildTemplate('python', config);
  await buildTemplate('js');
  await buildTemplate('python-data');
  await using sandbox: Sandbox = await template.create({
    maxMemory: 1,
    mounts: [mount],
    env: { KEY: 'value' },
    hostcalls: { double: async (payload) => payload, plain: () => 3 },
    http: true,
  });
  const options: CallOptions = {
    timeoutMs: 5,
    cpuTimeoutMs: 5,
    signal: AbortSignal.timeout(5),
  };
  await sandbox.start(options);
  await sandbox.loadScript('x = 2', { name: 'x.py', ...options });
  const result: JsonValue | null = await sandbox.run(
    'f',
    [1, '2', null, [true], { a: 1n }],
    { b: 2 },
    options,
  );
  console.log(result);
  const events: AsyncGenerator<Event> = sandbox.runStream('f', [new Arg(1), new Arg('x', 'y')]);
  for await (const event of events) {
    if (event.type === 'error') console.log(event.error.code satisfies string);
    if (event.type === 'log') console.log(event.level);
  }
  const big = await template.create({ bigints: true });
  const value = await big.run('f');
  if (typeof value === 'bigint') console.log(value + 1n);
  await template.create({
    httpHandler: async (request: HttpRequest): Promise<HttpResponse> => ({
      status: request.body === null ? 204 : 200,
      headers: [
        ['a', 'b'],
        ['a', request.headers['x'] ?? 'c'],
      ],
      body: null,
    }),
  });
  await template.create({
    httpRequestBody: 'stream',
    http: async ({ body, signal }) => {
      signal.throwIfAborted();
      return body === null ? { status: 200 } : { status: 200, headers: { a: ['b', 'c'] }, body };
    },
  });
  try {
    sandbox.close();
  } catch (error) {
    if (error instanceof AbortError) console.log(error.cause);
    if (error instanceof LimitError && error.code === 'memory_limit') console.log(error.message);
    if (error instanceof IsolaError) console.log(error.exception?.traceback);
  }
}

async function copies(template: SandboxTemplate, sandbox: Sandbox): Promise<number> {
  const children: Sandbox[] = await sandbox.fork(2);
  await sandbox.fork();
  const snapshot: Snapshot = await sandbox.snapshot();
  const size: number =
    (await snapshot.save('a.snapshot')) + snapshot.memorySize + snapshot.residentSize;
  const restored: Sandbox = await template.restore(snapshot, { env: { A: '1' } });
  await template.restore('a.snapshot', { bigints: true });
  await template.restore(await template.loadSnapshot('a.snapshot'));
  const refused: IsolaError | undefined = undefined as SnapshotError | undefined;
  void [children, restored, refused];
  return size;
}
void copies;

async function streams(sandbox: Sandbox): Promise<void> {
  const options: StreamOptions = { capacity: 5, name: 'rows' };
  const stream: StreamArg = new StreamArg(options);
  const called: Promise<JsonValue | null> = sandbox.run(
    'f',
    [stream, new Arg(new StreamArg(), 'other')],
    {
      more: StreamArg.from(['a', { b: 1n }]),
    },
  );
  try {
    await stream.send({ a: [1, null] });
    stream.push('x');
    stream.end();
  } catch (error) {
    if (error instanceof StreamClosedError) console.log(error.code === 'stream_closed');
  }
  async function* values(): AsyncGenerator<number> {
    yield 1;
  }
  for await (const event of sandbox.runStream('f', [StreamArg.from(values(), { name: null })])) {
    console.log(event.type);
  }
  StreamArg.from([Promise.resolve(1)]);
  console.log(await called, stream.name, stream.capacity.toFixed());
}
void streams;

async function pieces(sandbox: Sandbox): Promise<void> {
  const value: JsonValue | null = await sandbox.evaluate('1 + 1', { cpuTimeoutMs: 5 });
  const events: AsyncGenerator<Event> = sandbox.evaluateStream('2');
  console.log(value, events);
}
void pieces;

async function files(template: SandboxTemplate): Promise<Buffer> {
  const sandbox = await template.create({ maxStorage: 0, arguments: ['a'] as const });
  const files: Files = sandbox.files;
  await files.write('a', new Uint8Array(1));
  await files.write('b', 'text');
  const entries: FileEntry[] = await files.list();
  const stat: FileStat = await files.stat('a');
  const kind: FileKind | undefined = entries[0]?.kind;
  await files.makeDir('c');
  await files.rename('a', 'c/a');
  await files.remove('c');
  const failed: IsolaError | undefined = undefined as FileError | undefined;
  const text: string = (await files.exists('b')) ? await files.readText('b') : '';
  console.log(stat.modified.getTime(), stat.mode | 0o7, kind, text, failed);
  return files.read('b');
}
void files;

async function code(sandbox: Sandbox): Promise<string | null> {
  const contexts: Contexts = sandbox.contexts;
  const context: Context = await contexts.create({ language: 'python', cwd: null });
  const options: CodeOptions = {
    language: 'python',
    context,
    timeout: 5,
    cpuTimeoutMs: 5,
    onStdout: (text) => console.log(text.length),
    onStderr: null,
    onResult: async (result: Result) => console.log(result.png, result.formats()),
    onError: ({ name, value, traceback }: ExecutionError) => console.log(name, value, traceback),
  };
  const execution: Execution = await sandbox.runCode('1', options);
  const stopped: boolean = sandbox.interrupt() || (await contexts.interrupt(context.id));
  await contexts.restart(context);
  await contexts.remove('a');
  const json: JsonValue | undefined = execution.results[0]?.data['application/json'];
  console.log(stopped, json, execution.error?.name, execution.logs.stdout.join(''));
  return execution.text;
}
void code;

async function runtimes(): Promise<SandboxTemplate> {
  const options: RuntimeOptions = {
    version: '0.1.0',
    runtimesDir: './runtimes',
    onProgress: console.log,
  };
  const { runtime, ...found }: RuntimeConfig = await resolveRuntime('js', options);
  return buildTemplate(runtime, found);
}
void runtimes;
