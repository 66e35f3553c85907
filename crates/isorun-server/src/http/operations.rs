//! The parameters of each operation: refuses unknown and duplicate parameters of the
//! query, and a body for an operation that has none.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{MatchedPath, Query, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use http_body::Body as _;
use serde::Deserialize;
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn},
};

use super::{
    error::ApiError,
    json_body::{collect, is_json},
};
use crate::strict_json;

/// The body of an operation without parameters: empty, or an empty object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmptyBody {}

/// The parameters of each operation, by method and path template, from the OpenAPI
/// description.
#[derive(Debug, Default)]
pub struct Operations(HashMap<(Method, String), Accepted>);

#[derive(Debug)]
struct Accepted {
    /// The names of the query parameters.
    query: Vec<String>,
    /// True if its handler reads a body.
    body: bool,
}

impl Operations {
    pub fn of(document: &OpenApi) -> Arc<Self> {
        let mut all = HashMap::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in [
                (Method::GET, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ] {
                if let Some(operation) = operation {
                    all.insert((method, path.clone()), accepted(operation));
                }
            }
        }
        Arc::new(Self(all))
    }
}

fn accepted(operation: &Operation) -> Accepted {
    let query = operation
        .parameters
        .iter()
        .flatten()
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        })
        .filter(|parameter| parameter.parameter_in == ParameterIn::Query)
        .map(|parameter| parameter.name.clone())
        .collect();
    Accepted { query, body: operation.request_body.is_some() }
}

/// Refuses unknown query parameters, and a body for an operation without one.
pub async fn check(
    State(operations): State<Arc<Operations>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let method =
        if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let found = path.and_then(|path| operations.0.get(&(method.clone(), path)));
    if let Some(accepted) = found {
        check_query(request.uri(), &accepted.query)?;
        if !accepted.body && method != Method::GET && !request.body().is_end_stream() {
            let headers = request.headers().clone();
            let body = std::mem::take(request.body_mut());
            let bytes = collect(body).await?;
            if !bytes.trim_ascii().is_empty() {
                is_json(&headers)?;
                strict_json::object::<EmptyBody>(&bytes).map_err(|why| {
                    ApiError::invalid(format!("the body is not a valid request: {why}"))
                })?;
            }
        }
    }
    Ok(next.run(request).await)
}

fn check_query(uri: &axum::http::Uri, known: &[String]) -> Result<(), ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| ApiError::invalid(format!("the query: {}", error.body_text())))?;
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    for (index, (name, _)) in pairs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            return Err(ApiError::invalid(strict_json::unknown(
                "parameter",
                name,
                "in the query",
                &known,
            )));
        }
        if pairs.iter().take(index).any(|(other, _)| other == name) {
            return Err(ApiError::invalid(format!("duplicate parameter `{name}` in the query")));
        }
    }
    Ok(())
}
