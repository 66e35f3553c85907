import { buildTemplate } from "isola-core";

const template = await buildTemplate("js");

import type { HttpRequest, HttpResponse } from "isola-core";

async function http(request: HttpRequest): Promise<HttpResponse> {
  return {
    status: 200,
    headers: { "content-type": "text/plain" },
    body: Buffer.from("hello world"),
  };
}

const sandbox = await template.create({ http });

await sandbox.start();
await sandbox.loadScript("async function main() { return await (await fetch('http://a.test/')).text(); }");
console.log(await sandbox.run("main"));
