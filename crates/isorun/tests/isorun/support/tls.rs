//! A server with TLS.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use reqwest::{Certificate, Client};
use tempfile::TempDir;

use super::server::Server;

/// A self-signed certificate for the address 127.0.0.1, in files.
pub struct TlsFiles {
    directory: TempDir,
    certificate: Certificate,
}

impl TlsFiles {
    /// Creates the files. Only their owner can read the key.
    pub fn create() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
        let files = Self { directory: tempfile::tempdir().unwrap(), certificate };
        std::fs::write(files.chain(), made.cert.pem()).unwrap();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut key = options.open(files.key()).unwrap();
        key.write_all(made.signing_key.serialize_pem().as_bytes()).unwrap();
        files
    }

    fn chain(&self) -> PathBuf {
        self.directory.path().join("chain.pem")
    }

    /// Returns the path of the private key.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// Returns the server options for these files.
    pub fn arguments(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec!["--tls-cert".into(), text(self.chain()), "--tls-key".into(), text(self.key())]
    }

    /// Starts a server with these files, whose client trusts its certificate.
    pub fn server(&self, more: &[&str]) -> Server {
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut server = Server::start_with(&[&arguments, more].concat());
        server.http = Client::builder().tls_certs_only([self.certificate.clone()]).build().unwrap();
        server
    }
}
