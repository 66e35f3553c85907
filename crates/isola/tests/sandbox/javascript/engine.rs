//! Corrections of the engine by the runner: values, strings, clocks, bodies.

use std::time::{SystemTime, UNIX_EPOCH};

use isola::{Limits, Runtime, args};
use serde_json::json;

use crate::fixture::{echo_host, started, started_with};

#[tokio::test]
async fn boxed_primitives_are_unwrapped() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "const one = () => Object(5n);
             const many = () => ({ a: [Object(-7n)], b: Object(2n ** 70n), c: Object(1), d: Object('x'),
                                   e: Object(true), f: { g: Object(0n) } });
             class Big { get value() { return Object(3n); } }
             const read = () => new Big().value;",
        )
        .await
        .unwrap();
    for (function, expected) in [
        ("one", "5"),
        ("many", r#"{"a":[-7],"b":1180591620717411303424,"c":1,"d":"x","e":true,"f":{"g":0}}"#),
        ("read", "3"),
    ] {
        let value = sandbox.run(function, args![]).await.unwrap();
        assert_eq!(value.to_string(), expected, "{function}");
    }
}

#[tokio::test]
async fn final_sigma_has_its_lower_case() {
    let sandbox = started(Runtime::JavaScript).await;
    sandbox.load_script("const lower = (text) => text.toLowerCase();").await.unwrap();
    for (text, expected) in [
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("ΑΣ ΒΣ", "ας βς"),
        ("Σ", "σ"),
        ("ΑΣ.", "ας."),
        ("Α'Σ'", "α'ς'"),
        ("ΑΣΒ", "ασβ"),
        ("1Σ", "1σ"),
        ("ΑΣ\u{301}Β", "ασ\u{301}β"),
        ("plain TEXT", "plain text"),
        ("İ", "i\u{307}"),
    ] {
        let seen = sandbox.run("lower", args![text]).await.unwrap();
        assert_eq!(seen, json!(expected), "{text}");
    }
    sandbox
        .load_script(
            "const refuses = () => {
                 try { String.prototype.toLowerCase.call(null); } catch (error) { return error.name; }
             };",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("refuses", args![]).await.unwrap(), json!("TypeError"));
}

#[tokio::test]
async fn time_origin_is_the_start_of_the_sandbox() {
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0;
    let sandbox = started(Runtime::JavaScript).await;
    sandbox
        .load_script(
            "const clocks = () => [performance.timeOrigin, performance.timeOrigin + performance.now()];",
        )
        .await
        .unwrap();
    let before = wall();
    let (origin, now): (f64, f64) = sandbox.run("clocks", args![]).await.unwrap().to().unwrap();
    let after = wall();
    assert!(origin <= before && origin > before - 3_600_000.0, "{origin}, {before}");
    assert!(now > before - 5.0 && now < after + 5.0, "{before} {now} {after}");
    let (again, _): (f64, f64) = sandbox.run("clocks", args![]).await.unwrap().to().unwrap();
    assert!((again - origin).abs() < f64::EPSILON, "{origin} {again}");
}

#[tokio::test]
async fn compressed_bodies_are_decoded() {
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), echo_host()).await;
    sandbox
        .load_script(
            "const text = 'hello world '.repeat(5000);
             const packed = async (format, content) =>
                 new Uint8Array(await new Response(
                     new Response(content).body.pipeThrough(new CompressionStream(format))).arrayBuffer());
             const request = (encoding, body) =>
                 fetch('http://host/', { method: 'POST', headers: { 'x-encoding': encoding }, body });
             async function main() {
                 const gzip = await packed('gzip', text);
                 const deflate = await packed('deflate', text);
                 const bodies = {
                     gzip, GZIP: gzip, 'x-gzip': gzip, deflate, ' deflate ': await packed('deflate-raw', text),
                     'deflate, gzip': await packed('gzip', deflate), 'gzip,identity': gzip,
                     identity: text, br: text, 'br, gzip': text,
                 };
                 const wrong = [];
                 for (const [encoding, body] of Object.entries(bodies)) {
                     if ((await (await request(encoding, body)).text()) !== text) wrong.push(encoding);
                     let streamed = '';
                     const decoder = new TextDecoder();
                     for await (const piece of (await request(encoding, body)).body) {
                         streamed += decoder.decode(piece, { stream: true });
                     }
                     if (streamed !== text) wrong.push(`${encoding}, streamed`);
                     const copy = (await request(encoding, body)).clone();
                     if ((await copy.text()) !== text) wrong.push(`${encoding}, cloned`);
                 }
                 return wrong;
             }
             async function broken(encoding) {
                 try {
                     return await (await request(encoding, 'this is not compressed')).text();
                 } catch (error) {
                     return `${error.name}: ${error.message}`;
                 }
             }
             async function empty() {
                 return await (await request('gzip', '')).text();
             }",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!([]));
    assert_eq!(sandbox.run("empty", args![]).await.unwrap(), json!(""));
    for encoding in ["gzip", "deflate"] {
        let seen: String = sandbox.run("broken", args![encoding]).await.unwrap().to().unwrap();
        let expected = format!("TypeError: fetch failed: the body is not valid {encoding} data");
        assert_eq!(seen, expected);
    }
}
