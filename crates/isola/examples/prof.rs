use isola::*;
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let rt: Runtime = std::env::args().nth(1).unwrap().parse()?;
    let what = std::env::args().nth(2).unwrap();
    let template = Template::builder(rt).build().await?;
    let t = std::time::Instant::now();
    for _ in 0..1000 {
        let sandbox = template.sandbox().create().await?;
        if what == "start" {
            sandbox.start().await?;
        }
    }
    println!("{:?} each", t.elapsed() / 1000);
    Ok(())
}
