//! The image `isola:python-data`: Python with numpy and pandas.

use serde_json::json;
use test_macros::server_test;

use crate::support::{Server, answer, refused};

const IMAGE: &str = "isola:python-data";

#[server_test(seconds = 300)]
async fn code_has_numpy_and_pandas(server: &Server) {
    let id = server.create_of(IMAGE, json!({})).await;
    server.value(&id, "import numpy as np, pandas as pd").await;
    server.value(&id, "sales = pd.DataFrame({'region': list('nsn'), 'amount': [10, 5, 7]})").await;
    let totals = "sales.groupby('region')['amount'].sum().to_json()";
    assert_eq!(server.value(&id, totals).await, "'{\"n\":17,\"s\":5}'");
    assert_eq!(server.value(&id, "int(np.full(4, 2**40).sum())").await, (4_u64 << 40).to_string());

    // The language of the image is Python.
    let cell = |language: &str| json!({ "code": "1 + 1", "language": language });
    assert_eq!(server.try_cell(&id, cell("python")).await.0, 200);
    let other = server.try_cell(&id, cell("javascript")).await;
    refused(&other, 422, "language_not_available", "isola:python-data runs python");
    let unknown = server.try_cell(&id, cell("python-data")).await;
    refused(&unknown, 422, "language_not_available", "python-data");
}

#[server_test(seconds = 300)]
async fn copies_keep_arrays_and_draw_other_numbers(server: &Server) {
    let id = server.create_of(IMAGE, json!({})).await;
    server.value(&id, "import numpy as np; rows = np.arange(1000)").await;
    let mut all = vec![id.clone()];
    all.extend(server.fork(&id, 2).await);
    let mut drawn = Vec::new();
    for each in &all {
        assert_eq!(server.value(each, "int(rows.sum())").await, "499500");
        drawn.push(server.value(each, "int(np.random.randint(2**60))").await);
    }
    server.change(&id, "hibernate").await;
    server.change(&id, "resume").await;
    assert_eq!(server.value(&id, "int(rows.sum())").await, "499500");
    drawn.push(server.value(&id, "int(np.random.randint(2**60))").await);
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 4, "{drawn:?}");
}

#[server_test]
async fn a_server_without_the_runtime_says_how_to_install_it() {
    let server = Server::start_with_runtimes(&["python.wasm", "js.wasm"]);
    let (_, ready) = answer(server.http.get(format!("{}/readyz", server.url))).await;
    let offers = ready["offers"].as_array().unwrap();
    assert!(offers.contains(&json!("isola:python")) && !offers.contains(&json!(IMAGE)), "{ready}");
    let refusal = server.post("/v1/runs", json!({ "image": IMAGE })).await;
    refused(&refusal, 501, "not_supported", "unpack isola-python-data.tar.gz");
    // Clients are not told where the server has looked.
    let home = server.home.path().display().to_string();
    assert!(!refusal.1.to_string().contains(&home), "{}", refusal.1);
}
