//! The OpenAPI description of the HTTP API, generated from its handlers.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "isorun",
        description = "Linux sandboxes from any OCI image, over HTTP. Every error has a body \
                       with `error`, a message, and `code`, a stable error code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "runs", description = "Runs: create, inspect, change and destroy sandboxes"),
        (name = "exec", description = "Commands in a run"),
        (name = "network", description = "Network rules of a run"),
        (name = "state", description = "Forks, hibernation and snapshots of a run"),
        (name = "files", description = "Files of a run"),
        (name = "server", description = "The server itself"),
    ),
    security(("key" = [])),
    modifiers(&Keys),
)]
struct Base;

/// The modifier that adds the authentication scheme.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("isorun_live_<region>_<id>_<hmac>")
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

pub fn base() -> Document {
    Base::openapi()
}

/// Returns the complete description.
pub fn document() -> Document {
    routes::document()
}

/// Get this description
#[utoipa::path(
    get, path = "/openapi.json", tag = "server", operation_id = "openapi",
    responses((status = 200, body = Object)),
    security(()),
)]
pub async fn show() -> Json<Document> {
    Json(document())
}
