//! One hostcall, as a task.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;

use crate::{contract::Outcome, host::Host, http::head::quoted, value::Value};

/// Calls the host's function. A panic of it fails the hostcall.
pub(super) async fn run(
    host: Arc<dyn Host>,
    name: String,
    payload: Value,
    max_value_size: usize,
) -> Outcome {
    match AssertUnwindSafe(host.hostcall(&name, payload)).catch_unwind().await {
        Ok(Ok(value)) if value.as_str().len() > max_value_size => {
            let name = quoted(&name);
            Outcome::Failed(format!("the result of {name} is larger than {max_value_size} bytes"))
        }
        Ok(Ok(value)) => Outcome::Value(value.into_text()),
        Ok(Err(error)) => Outcome::Failed(error.message().to_owned()),
        Err(_) => Outcome::Failed(format!("the host function {} panicked", quoted(&name))),
    }
}
