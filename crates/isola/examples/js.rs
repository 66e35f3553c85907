use isola::*;
#[tokio::main(flavor="current_thread")]
async fn main() -> anyhow::Result<()> {
    let template = Template::builder(Runtime::JavaScript).build().await?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let sandbox = template.sandbox().create().await?;
        sandbox.start().await?;
        let r = sandbox.load_script(line.as_str()).await;
        if let Err(e) = r { println!("LOAD {line}: {e}"); continue }
        let v = sandbox.run_stream("main", args![])?;
        let e: Vec<_> = futures_util::StreamExt::collect(v).await;
        println!("{line} => {e:?}");
    }
    Ok(())
}
