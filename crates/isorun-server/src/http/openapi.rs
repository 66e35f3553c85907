//! The parts of the OpenAPI description that belong to no handler.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

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
        (name = "code", description = "Code in contexts, interpreters that keep their state"),
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

/// Returns the description without routes.
pub fn base() -> Document {
    Base::openapi()
}
