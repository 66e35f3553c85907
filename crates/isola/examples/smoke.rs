use futures_util::StreamExt as _;
use isola::*;
use std::time::Instant;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let rt: Runtime = std::env::args().nth(1).unwrap().parse()?;
    let t = Instant::now();
    let template = Template::builder(rt).on_compile(|| eprintln!("compiling")).build().await?;
    println!("template {:?}", t.elapsed());
    let t = Instant::now();
    let template = Template::builder(rt).build().await?;
    println!("template {:?}", t.elapsed());
    let _ = &template;
    for _ in 0..5 {
        let t = Instant::now();
        let sandbox = template.sandbox().create().await?;
        let create = t.elapsed();
        let t = Instant::now();
        sandbox.start().await?;
        let start = t.elapsed();
        let t = Instant::now();
        let src = match rt {
            Runtime::Python => "def add(a, b):\n    return a + b\n",
            _ => "function add(a,b) { return a + b }",
        };
        sandbox.load_script(src).await?;
        let load = t.elapsed();
        let t = Instant::now();
        let v = sandbox.run("add", args![1, 2]).await?;
        assert_eq!(v.as_str(), "3");
        let first = t.elapsed();
        let t = Instant::now();
        for _ in 0..1000 {
            sandbox.run("add", args![1, 2]).await?;
        }
        let later = t.elapsed() / 1000;
        let t = Instant::now();
        drop(sandbox);
        println!(
            "create {create:?} start {start:?} load {load:?} first {first:?} later {later:?} drop {:?}",
            t.elapsed()
        );
    }
    if let Some(path) = std::env::args().nth(2) {
        let host = Handlers::new().hostcall("echo", |v: Value| async move {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            Ok(v)
        });
        let sandbox = template.sandbox().host(host).create().await?;
        sandbox.start().await?;
        let mut s = sandbox.load_script(std::fs::read_to_string(path)?).stream()?;
        while let Some(e) = s.next().await {
            println!("{e:?}");
        }
        let t = Instant::now();
        let mut s = sandbox.run_stream("main", args![])?;
        while let Some(e) = s.next().await {
            match e {
                Event::Error(e) => println!("ERROR {e}"),
                e => println!("{:?} {e:?}", t.elapsed()),
            }
        }
    }
    Ok(())
}
