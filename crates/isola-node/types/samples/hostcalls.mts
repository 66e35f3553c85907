import { buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create({
  hostcalls: {
    lookup_user: async (payload) => {
      const { user_id } = payload as { user_id: number };
      return { user_id, name: `user-${user_id}` };
    },
  },
});

await sandbox.start();
await sandbox.loadScript(
  "from sandbox.asyncio import hostcall\n" +
    "\n" +
    "async def lookup_user(user_id):\n" +
    " return await hostcall('lookup_user', {'user_id': user_id})\n",
);

const result = await sandbox.run("lookup_user", [7]);
console.log(result);
