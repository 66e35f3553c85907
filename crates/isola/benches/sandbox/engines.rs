//! The same work in the JavaScript guest, in QuickJS compiled to WebAssembly, and in
//! Node.js, which has a JIT compiler.

use std::{process::Command, time::Duration};

use isola::{Runtime, args};

use crate::{
    loaded,
    subprocess::{median_of, real_program},
    table::{Column, Table},
    template,
};

/// The names of the rows, and a function that returns its duration in seconds.
const WORK: [(&str, &str, &str, &str); 2] = [
    (
        "5 million loop steps in JavaScript",
        "5 million loop steps, as a multiple of QuickJS in WebAssembly",
        "5 million loop steps, as a multiple of Node.js",
        "function work() {
    const begin = Date.now();
    let total = 0;
    for (let i = 0; i < 5_000_000; i++) total += i;
    return (Date.now() - begin) / 1000 + total * 0;
}",
    ),
    (
        "JSON: parse, change and write 20 MB",
        "JSON, as a multiple of QuickJS in WebAssembly",
        "JSON, as a multiple of Node.js",
        "function work() {
    const rows = [];
    for (let i = 0; i < 10_000; i++) {
        rows.push({ id: i, name: 'row ' + i, tags: ['a', 'b', 'c'], price: i / 7, nested: { yes: true, no: null } });
    }
    let text = JSON.stringify(rows);
    const begin = Date.now();
    let length = 0;
    for (let round = 0; round < 20; round++) {
        const data = JSON.parse(text);
        for (const row of data) row.price += 1;
        text = JSON.stringify(data);
        length += text.length;
    }
    return (Date.now() - begin) / 1000 + length * 0;
}",
    ),
];

const QUICKJS: &str = "
const [dir, source] = process.argv.slice(1);
const { getQuickJS } = require(`${dir}/node_modules/quickjs-emscripten`);
getQuickJS().then((quickjs) => {
    const context = quickjs.newContext();
    console.log(context.dump(context.unwrapResult(context.evalCode(source))));
});
";

pub(crate) fn measure(table: &mut Table) {
    for (name, quickjs_name, node_name, source) in WORK {
        if ![name, quickjs_name, node_name].iter().any(|name| table.wants(name)) {
            continue;
        }
        let node = real_program("node", "-e");
        let native = median_of(3, || {
            seconds(Command::new(&node).args(["-e", &format!("{source}\nconsole.log(work())")]))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let template = runtime.block_on(template(Runtime::JavaScript));
        let sandbox = runtime.block_on(loaded(&template, source));
        let isolated = median_of(3, || {
            let seconds = runtime.block_on(async { sandbox.run("work", args![]).await });
            Duration::from_secs_f64(seconds.unwrap().to().unwrap())
        });
        let column = Column::JavaScript;
        let ratio =
            |other: Duration| format!("{:.2} ×", isolated.as_secs_f64() / other.as_secs_f64());
        table.duration(name, column, isolated, None);
        // Set by `cargo xtask bench`, which installs QuickJS.
        let dir = std::env::var("ISOLA_BENCH_QUICKJS").expect(
            "ISOLA_BENCH_QUICKJS is not set: run `cargo xtask bench`, which installs QuickJS",
        );
        let quickjs = median_of(3, || {
            let call = format!("{source}\nwork()");
            seconds(Command::new(&node).args(["-e", QUICKJS, &dir, &call]))
        });
        table.text(quickjs_name, column, ratio(quickjs), "");
        table.text(node_name, column, ratio(native), "");
    }
}

fn seconds(command: &mut Command) -> Duration {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let number = text.trim().parse();
    Duration::from_secs_f64(number.unwrap_or_else(|_| {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }))
}
