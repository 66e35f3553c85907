//! An object store of the test, which fails as a test wants.

use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode},
    response::IntoResponse,
};
use http_body_util::BodyExt;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

const ACCESS_KEY: &str = "AKIAEXAMPLE";
const SECRET_KEY: &str = "a-secret-access-key";
const BUCKET: &str = "bucket";
/// More than the 6 hours after which garbage is deleted.
const GARBAGE_AGE: Duration = Duration::from_secs(7 * 3600);
/// The time that a slow store takes for each request.
const DELAY: Duration = Duration::from_millis(1500);

/// What the store does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    Whole,
    /// It responds with the status 500.
    Failing,
    /// It takes some time before it handles a request.
    Slow,
    /// It sends half of each body, and closes the connection.
    Truncating,
}

/// An S3 server on a port of the loopback address, with its objects in a directory.
pub struct FaultyStore {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    root: TempDir,
}

struct Shared {
    service: S3Service,
    state: Mutex<StoreState>,
}

impl FaultyStore {
    pub async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared =
            Arc::new(Shared { service: builder.build(), state: Mutex::new(StoreState::Whole) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = axum::Router::new().fallback(respond).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, shared, task, root }
    }

    pub fn set(&self, state: StoreState) {
        *self.shared.state.lock().unwrap() = state;
    }

    /// Makes all objects look older than garbage has to be to be deleted.
    pub fn age(&self) {
        let written = SystemTime::now() - GARBAGE_AGE;
        for path in self.files() {
            fs::File::open(path).unwrap().set_modified(written).unwrap();
        }
    }

    /// Returns the names of the objects that hold checkpoints, or lists of garbage.
    pub fn objects(&self) -> Vec<String> {
        let bucket = self.root.path().join(BUCKET);
        let names = self.files().into_iter().filter_map(|path| {
            let name = path.strip_prefix(&bucket).ok()?.to_str().unwrap().to_owned();
            ["trees/", "chunks/", "garbage/"].iter().any(|it| name.contains(it)).then_some(name)
        });
        names.collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut directories) = (Vec::new(), vec![self.root.path().to_owned()]);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let is_directory = entry.file_type().unwrap().is_dir();
                if is_directory { &mut directories } else { &mut files }.push(entry.path());
            }
        }
        files
    }

    /// Returns the environment of a server that reaches the store at this port.
    pub fn environment(port: u16) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("ISORUN_BLOBS", format!("s3://{BUCKET}/isorun")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

impl Drop for FaultyStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let state = *shared.state.lock().unwrap();
    match state {
        StoreState::Failing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        StoreState::Slow => tokio::time::sleep(DELAY).await,
        StoreState::Whole | StoreState::Truncating => {}
    }
    let request = request.map(s3s::Body::http_body_unsync);
    let Ok(response) = shared.service.call(request).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let (parts, body) = response.into_parts();
    if state != StoreState::Truncating {
        return Response::from_parts(parts, Body::new(body));
    }
    let Ok(body) = body.collect().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let bytes = body.to_bytes();
    // The header fields have the length of the whole, so that the connection is closed.
    let half = futures_util::stream::once(std::future::ready(Ok::<_, Infallible>(
        bytes.slice(..bytes.len() / 2),
    )));
    Response::from_parts(parts, Body::from_stream(half))
}
