//! One request through the proxy, and its answer: heads are rewritten, bodies
//! stream, an upgrade becomes a plain stream of bytes both ways.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, Version, header},
    response::Response,
};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use isorun_engine::network::hop;
use tokio::time::timeout;

use super::{
    ApiError, Code, Place, Ports, inward, outward,
    reach::{MAX_FIELDS, MAX_HEADER, Trouble},
};
use crate::server::runs::Visit;

/// How long a server inside may take until its answer begins.
const SILENCE: Duration = Duration::from_secs(300);

/// Passes a request on, and its answer back.
pub async fn pass(
    ports: &Ports,
    visit: Visit,
    place: &Place,
    shared_origin: bool,
    mut request: Request,
) -> Result<Response, ApiError> {
    let names = inward::Names::of(request.uri(), request.headers());
    let shown = outward::Shown::of(place, &names, request.headers(), shared_origin);
    if let Some(answer) = outward::preflight(shown.apart, &request) {
        return Ok(answer);
    }
    // A WebSocket over HTTP/2 is a CONNECT; inside it is the usual upgrade.
    let over_http2 = request.method() == Method::CONNECT;
    let protocol = if over_http2 {
        let protocol = request.extensions_mut().remove::<Protocol>();
        let protocol = protocol.filter(|protocol| protocol.as_str() == "websocket");
        if protocol.is_none() {
            return Err(ApiError::invalid("CONNECT is for WebSockets only"));
        }
        Some(HeaderValue::from_static("websocket"))
    } else {
        hop::upgrade(request.headers())
    };
    let ours = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let inward = inward(place, &names, request, protocol, over_http2)?;
    let sending = ports.send(visit.sandbox(), place.port, inward);
    let answer = match timeout(SILENCE, sending).await {
        Ok(answer) => answer.map_err(|trouble| refusal(place, trouble))?,
        Err(_) => {
            return Err(ApiError::new(
                Code::PortSilent,
                format!("the server on port {} did not answer in time", place.port),
            ));
        }
    };
    Ok(outward(place, &shown, answer, ours, over_http2, visit))
}

fn refusal(place: &Place, trouble: Trouble) -> ApiError {
    match trouble {
        Trouble::Refused(why) => ApiError::new(
            Code::NobodyListens,
            format!("{why} in {}: start a server there, then try again", place.run),
        ),
        Trouble::Busy(why) => {
            ApiError::new(Code::TooManyRequests, why).after(Duration::from_secs(1))
        }
        Trouble::Away(why) => {
            tracing::warn!(run = %place.run, why, "a URL does not reach its sandbox");
            ApiError::new(Code::Unavailable, "the sandbox cannot be reached now: try again")
        }
        Trouble::TooLarge => ApiError::new(
            Code::PortBroken,
            format!(
                "the header of the answer from port {} is larger than {MAX_FIELDS} fields or \
                 {MAX_HEADER} bytes",
                place.port
            ),
        ),
        Trouble::Broken(_) => ApiError::new(
            Code::PortBroken,
            format!(
                "the server on port {} hung up, or does not speak HTTP: its answer makes no sense",
                place.port
            ),
        ),
    }
}

/// What the server inside is sent.
fn inward(
    place: &Place,
    names: &inward::Names,
    request: Request,
    upgrade: Option<HeaderValue>,
    over_http2: bool,
) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = inward::target(place, parts.uri.query())?;
    let headers = &mut parts.headers;
    inward::rewrite(place, names, headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
        if over_http2 {
            parts.method = Method::GET;
            // Nobody looks at the answer to it: HTTP/2 has none.
            let key = HeaderValue::from_static("aXNvcnVuLXdlYnNvY2tldA==");
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }
    parts.version = Version::HTTP_11;
    Ok(Request::from_parts(parts, body))
}

/// What the client is sent.
fn outward(
    place: &Place,
    shown: &outward::Shown,
    mut answer: Response<hyper::body::Incoming>,
    ours: Option<OnUpgrade>,
    over_http2: bool,
    visit: Visit,
) -> Response {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut answer);
        let protocol = hop::upgrade(answer.headers());
        let (mut parts, _) = answer.into_parts();
        outward::rewrite(place, shown, &mut parts.headers);
        if over_http2 {
            parts.status = StatusCode::OK;
            parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else if let Some(protocol) = protocol {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol);
        }
        if let Some(ours) = ours {
            tokio::spawn(splice(ours, theirs, visit));
        }
        return Response::from_parts(parts, Body::empty());
    }
    let (mut parts, body) = answer.into_parts();
    outward::rewrite(place, shown, &mut parts.headers);
    parts.version = Version::default();
    Response::from_parts(parts, visit.until_the_end(body))
}

/// Carries bytes both ways until both have ended, or the run has.
async fn splice(ours: OnUpgrade, theirs: OnUpgrade, visit: Visit) {
    let work = async {
        let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        // Who hangs up is told by the end of the other one.
        let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
    };
    tokio::select! {
        () = work => {}
        _ = visit.ended() => {}
    }
}
