//! The routing table, and the OpenAPI description that follows from it.

use axum::{Json, Router, middleware, routing::any};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, audit_log, auth, code, contexts, early, elsewhere, exec, files, health, limits, metrics,
    network, observe, openapi,
    operations::{self, Operations},
    proxy, runs, shell, state,
};

/// Returns the routes that need no key.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(show_description))
}

/// Returns the routes that need a key.
fn keyed() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(runs::create_run, runs::list))
        .routes(routes!(runs::history))
        .routes(routes!(runs::get, runs::patch, runs::delete))
        .routes(routes!(runs::stats))
        .routes(routes!(exec::once::once))
        .routes(routes!(exec::once::stream))
        .routes(routes!(exec::attach::attach))
        .routes(routes!(exec::attach::terminal))
        .routes(routes!(code::once::once))
        .routes(routes!(code::once::stream))
        .routes(routes!(contexts::list, contexts::create))
        .routes(routes!(contexts::remove))
        .routes(routes!(contexts::restart))
        .routes(routes!(contexts::interrupt))
        .routes(routes!(files::upload))
        .routes(routes!(files::download))
        .routes(routes!(files::list))
        .routes(routes!(network::profile_list))
        .routes(routes!(network::show, network::change))
        .routes(routes!(audit_log::show))
        .routes(routes!(shell::open))
        .routes(routes!(state::fork_run))
        .routes(routes!(state::hibernate_run))
        .routes(routes!(state::resume_run))
        .routes(routes!(state::take))
        .routes(routes!(state::restore))
        .routes(routes!(state::list))
        .routes(routes!(state::delete))
        .routes(routes!(runs::usage))
        .routes(routes!(metrics::show))
}

/// Returns the routes to ports of runs. They are not part of the OpenAPI description.
fn proxied() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .route("/v1/runs/{id}/proxy/{port}", any(proxy::keyed))
        .route("/v1/runs/{id}/proxy/{port}/", any(proxy::keyed))
        .route("/v1/runs/{id}/proxy/{port}/{*path}", any(proxy::keyed))
}

/// Returns the OpenAPI description of all routes.
pub fn document() -> OpenApi {
    open().merge(keyed()).to_openapi()
}

/// Returns the complete router of the server.
pub fn service(app: &App) -> Router {
    let key = middleware::from_fn_with_state(app.clone(), auth::require_key);
    let operations = Operations::of(&document());
    let known = middleware::from_fn_with_state(operations, operations::check);
    let elsewhere = middleware::from_fn_with_state(app.clone(), elsewhere::forward);
    let keyed = keyed().route_layer(known).merge(proxied());
    let keyed = keyed.route_layer(elsewhere).route_layer(key);
    let (router, _) = open().merge(keyed).split_for_parts();
    router
        .route("/sb/{*place}", any(proxy::anonymous))
        .fallback(observe::no_such_route)
        .method_not_allowed_fallback(observe::no_such_method)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn_with_state(app.clone(), limits::limit_requests))
        .layer(middleware::from_fn_with_state(app.clone(), observe::record))
        .layer(middleware::from_fn(early::close))
        .with_state(app.clone())
}

/// Get this description
#[utoipa::path(
    get, path = "/openapi.json", tag = "server", operation_id = "openapi",
    responses((status = 200, body = Object)),
    security(()),
)]
async fn show_description() -> Json<OpenApi> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn described_bodies_allow_no_additional_fields() {
        let document = serde_json::to_value(super::document()).unwrap();
        let mut checked = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                if !schema.is_null() {
                    assert_closed(&document, schema, &format!("{method} {path}"));
                    checked += 1;
                }
            }
        }
        assert!(checked >= 7, "{checked}");
    }

    /// Asserts that a schema, and those of its fields, allow no additional fields.
    fn assert_closed(document: &Value, schema: &Value, location: &str) {
        let schema = match schema["$ref"].as_str() {
            Some(name) => document.pointer(name.trim_start_matches('#')).unwrap(),
            None => schema,
        };
        for kind in ["oneOf", "anyOf", "allOf"] {
            for part in schema[kind].as_array().into_iter().flatten() {
                assert_closed(document, part, location);
            }
        }
        let Some(fields) = schema["properties"].as_object() else { return };
        assert_eq!(schema["additionalProperties"], Value::Bool(false), "{location}: {schema}");
        for (name, field) in fields {
            assert_closed(document, field, &format!("{location} {name}"));
        }
    }
}
