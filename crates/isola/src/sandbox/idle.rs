//! A test of the invariant that an idle guest holds no host handle: its resource
//! table is empty between calls, except for the root directory of the Python guest's C
//! library, which a copy of the guest opens anew.

use test_macros::each_runtime;

use crate::{Handlers, Language, Runtime, Template, args, http::Body};

const PYTHON: &str = "
import asyncio, sys, os
from sandbox.asyncio import hostcall, run, subscribe
from sandbox.http import fetch
from wit_world.imports import monotonic_clock
left = []
async def forever():
    with monotonic_clock.subscribe_duration(10**15) as pollable:
        await subscribe(pollable)
async def leave():
    left.append(asyncio.create_task(forever()))
    await asyncio.sleep(0)
loop = asyncio.new_event_loop()
loop.run_until_complete(leave())
async def main(url):
    await leave()
    run(leave())
    print('out')
    print('err', file=sys.stderr)
    await asyncio.gather(*(hostcall('echo', i) for i in range(3)))
    await asyncio.sleep(0.001)
    try:
        async with fetch('POST', url, body={'a': 1}) as response:
            await response.atext()
    except OSError:
        pass
    os.urandom(4)
    yield 1
";

const JAVASCRIPT: &str = "
async function* main(url) {
    console.log('out');
    await Promise.all([hostcall('echo', 1), hostcall('echo', 2)]);
    await new Promise(resolve => setTimeout(resolve, 1));
    try {
        const signal = AbortSignal.timeout(60000);
        const response = await fetch(url, {method: 'POST', body: {a: 1}, signal});
        await response.text();
    } catch (error) {
        if (!(error instanceof TypeError)) throw error;
    }
    crypto.getRandomValues(new Uint8Array(4));
    yield 1;
}
";

#[each_runtime]
async fn an_idle_guest_holds_no_host_handle(runtime: Runtime) {
    let host = Handlers::new().hostcall("echo", |payload| async move { Ok(payload) }).http(
        |request| async move {
            match request.uri().path() {
                "/refused" => Err(crate::HostError::new("refused")),
                _ => Ok(::http::Response::new(Body::from("answer"))),
            }
        },
    );
    let script = match runtime.language() {
        Language::Python => PYTHON,
        Language::JavaScript => JAVASCRIPT,
    };
    let template = Template::builder(runtime).build().await.unwrap();
    let sandbox = template.sandbox().host(host).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script).await.unwrap();
    for url in ["http://example.test/", "http://example.test/refused"] {
        sandbox.run("main", args![url]).await.unwrap();
        let mut lease = sandbox.shared.lease(false).unwrap();
        let guest = lease.guest().unwrap().store.data_mut();
        let root = usize::from(runtime.language() == Language::Python);
        assert_eq!(guest.open_mounts(), vec!["/"; root], "after {url}");
        let handles = guest.table.iter_mut().count();
        assert_eq!(handles, root, "after {url}: {:?}", guest.table);
        lease.release();
    }
}
