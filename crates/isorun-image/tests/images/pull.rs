//! Pulls from a real registry.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use isorun_image::{Progress, ProgressEvent, Registries, RegistryCredentials};
use serde_json::json;

use crate::bundle::{
    Bundle, INDEX, Layer, MANIFEST, TestStore, descriptor, gzip, sha256, write_layout, zstd,
};
use crate::registry::{PASSWORD, Registry, USER, options};

/// Returns a progress receiver, and the events it records.
fn recording_progress() -> (Progress, Arc<Mutex<Vec<ProgressEvent>>>) {
    let events_seen = Arc::new(Mutex::new(Vec::new()));
    let recorder = events_seen.clone();
    (Progress::new(move |event| recorder.lock().unwrap().push(event)), events_seen)
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} ({error}): cargo xtask setup installs it"));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sample() -> Bundle {
    let base = Layer::default().directory("etc").file("etc/name", "base").file("gone", "x").tar();
    let next = Layer::default().file("etc/name", "next").file(".wh.gone", "").tar();
    let last = Layer::default().file("last", "l").tar();
    let layers =
        [(gzip(&base), sha256(&base)), (zstd(&next), sha256(&next)), (last.clone(), sha256(&last))];
    Bundle::with(&layers, json!({ "Env": ["A=b"], "Cmd": ["sh"] }), "amd64")
}

#[tokio::test(flavor = "multi_thread")]
async fn image_with_gzip_zstd_and_plain_layers_is_pulled() {
    let (home, registry) = (TestStore::new(), Registry::start());
    let name = registry.push(&sample().layout(&home.path("layout")), "some/image:1", false);
    std::fs::remove_dir_all(home.path("layout")).unwrap();
    let (progress, events_seen) = recording_progress();
    let image = home.store.pull(&name, &options(), &progress).await.unwrap();
    assert_eq!(std::fs::read_to_string(image.root.join("etc/name")).unwrap(), "next");
    assert!(image.root.join("last").exists() && !image.root.join("gone").exists());
    assert_eq!(image.config.env, [("A".to_owned(), "b".to_owned())]);
    assert_eq!(image.config.cmd, ["sh"]);
    let events = std::mem::take(&mut *events_seen.lock().unwrap());
    let count =
        |test: fn(&ProgressEvent) -> bool| events.iter().filter(|event| test(event)).count();
    assert_eq!(count(|event| matches!(event, ProgressEvent::Found { layers: 3, .. })), 1);
    assert_eq!(count(|event| matches!(event, ProgressEvent::Complete { .. })), 3);
    assert_eq!(count(|event| matches!(event, ProgressEvent::Unpacked { .. })), 3);
    let bytes = |events: &[ProgressEvent]| -> u64 {
        events
            .iter()
            .map(|e| if let ProgressEvent::Fetched { bytes, .. } = e { *bytes } else { 0 })
            .sum()
    };
    let announced = events.iter().find_map(|event| match event {
        ProgressEvent::Found { bytes, .. } => Some(*bytes),
        _ => None,
    });
    assert_eq!(Some(bytes(&events)), announced);

    // By name, by digest, and again without fetching any layer.
    let found = home.store.resolve(&name).unwrap().unwrap();
    assert_eq!((&found.root, &found.digest), (&image.root, &image.digest));
    let by_digest = registry.name(&format!("some/image@{}", image.digest));
    assert!(home.store.resolve(&by_digest).unwrap().is_some());
    let (progress, events_seen) = recording_progress();
    let again = home.store.pull(&by_digest, &options(), &progress).await.unwrap();
    assert_eq!(again.root, image.root);
    assert_eq!(bytes(&events_seen.lock().unwrap()), 0);
    home.check("pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn image_for_the_platform_is_chosen() {
    let (home, registry) = (TestStore::new(), Registry::start());
    let mut blobs = Vec::new();
    let mut entries = Vec::new();
    for architecture in ["arm64", "amd64", "s390x"] {
        let tar = Layer::default().file("arch", architecture).tar();
        let bundle = Bundle::with(&[(gzip(&tar), sha256(&tar))], json!({}), architecture);
        let mut entry = descriptor(MANIFEST, &bundle.manifest);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entries.push(entry);
        blobs.extend(bundle.blobs);
        blobs.push(bundle.manifest);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let index = index.to_string().into_bytes();
    let mut top = descriptor(INDEX, &index);
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
    blobs.push(index);
    let layout = home.path("layout");
    write_layout(&layout, &json!([top]), &blobs);
    let name = registry.push(&layout, "multi", true);
    let mut options = options();
    for architecture in ["amd64", "arm64", "s390x"] {
        options.platform = format!("linux/{architecture}").parse().unwrap();
        let image = home.store.pull(&name, &options, &Progress::none()).await.unwrap();
        assert_eq!(std::fs::read_to_string(image.root.join("arch")).unwrap(), architecture);
    }
    options.platform = "linux/riscv64".parse().unwrap();
    let error = home.store.pull(&name, &options, &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "image_platform");
    let text = error.to_string();
    assert!(text.contains("linux/riscv64") && text.contains("linux/arm64, linux/amd64"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn private_registry_accepts_credentials() {
    let (home, registry) = (TestStore::new(), Registry::with_login());
    let name = registry.push(&sample().layout(&home.path("layout")), "private", false);
    let pull = async |registries: Registries| {
        let mut options = options();
        options.registries = registries;
        home.store.pull(&name, &options, &Progress::none()).await
    };
    let user = |password: &str| RegistryCredentials::User {
        name: USER.to_owned(),
        password: password.to_owned(),
    };
    let host = registry.address();
    let error = pull(Registries::default()).await.unwrap_err();
    assert_eq!(error.code(), "image_auth");
    assert!(error.to_string().contains("a user and a password"), "{error}");
    for wrong in [user("guess"), RegistryCredentials::Token("guess".to_owned())] {
        let error = pull(Registries::default().credentials(host, wrong)).await.unwrap_err();
        assert_eq!(error.code(), "image_auth");
        assert!(!format!("{error} {error:?}").contains("guess"), "{error:?}");
    }
    pull(Registries::default().credentials(host, user(PASSWORD))).await.unwrap();

    // "tester:open sesame", as `docker login` writes it.
    let config = home.path("config.json");
    let auths = json!({ "auths": { host: { "auth": "dGVzdGVyOm9wZW4gc2VzYW1l" } } });
    std::fs::write(&config, auths.to_string()).unwrap();
    pull(Registries::default().docker_config(&config).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_images_are_reported() {
    let (home, registry) = (TestStore::new(), Registry::start());
    registry.push(&sample().layout(&home.path("layout")), "known:1", false);
    let zero = format!("known@sha256:{}", "0".repeat(64));
    for name in ["unknown", "known:2", &zero] {
        let name = registry.name(name);
        let error = home.store.pull(&name, &options(), &Progress::none()).await.unwrap_err();
        assert_eq!(error.code(), "image_not_found");
        assert!(error.to_string().contains(&name.to_string()), "{error}");
        assert!(home.store.resolve(&name).unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirror_replaces_a_registry() {
    let (home, registry) = (TestStore::new(), Registry::start());
    registry.push(&sample().layout(&home.path("layout")), "library/python:3.12", false);
    let mut options = options();
    options.registries = Registries::default().mirror("docker.io", registry.address());
    let name = "python:3.12".parse().unwrap();
    home.store.pull(&name, &options, &Progress::none()).await.unwrap();
    let listed = home.store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].reference, "docker.io/library/python:3.12");
    assert!(listed[0].size > 0 && listed[0].created > 1_600_000_000);
}

/// Compares an image built and unpacked by umoci with the pulled one.
#[tokio::test(flavor = "multi_thread")]
async fn unpacked_image_matches_umoci() {
    let (home, registry) = (TestStore::new(), Registry::start());
    let work = home.path("work");
    let at = |name: &str| work.join(name).to_str().unwrap().to_owned();
    let (layout, image) = (at("layout"), format!("{}:test", at("layout")));
    std::fs::create_dir(&work).unwrap();
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    for round in 0..3 {
        let (bundle, rootfs) = (at(&format!("b{round}")), at(&format!("b{round}/rootfs")));
        run("umoci", &["unpack", "--image", &image, &bundle]);
        let script = match round {
            0 => "mkdir -p usr/bin etc srv/deep/er; echo root > etc/name; cp /bin/true usr/bin/t;
                  ln usr/bin/t usr/bin/hard; ln -s usr/bin bin; chown 12:34 srv; chmod 4711 usr/bin/t;
                  echo x > srv/deep/er/x; mkfifo etc/pipe; setfattr -n user.k -v v etc/name || true",
            1 => "rm -r srv/deep; rm usr/bin/hard; echo new > etc/name; echo y > bin/y",
            _ => "rm etc/pipe; mkdir etc/pipe; touch -d @100 etc/pipe; chmod 700 etc",
        };
        run("sh", &["-ec", &format!("cd {rootfs}; {script}")]);
        run("umoci", &["repack", "--image", &image, &bundle]);
    }
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.env",
            "K=v",
            "--config.user",
            "12:34",
            "--config.workingdir",
            "/srv",
            "--config.entrypoint",
            "/usr/bin/t",
        ],
    );
    let name = registry.push(Path::new(&layout), "umoci:1", false);
    let pulled = home.store.pull(&name, &options(), &Progress::none()).await.unwrap();
    run("umoci", &["unpack", "--image", &image, &at("theirs")]);
    let listing = |root: &Path| {
        let command = "find . -mindepth 1 -printf '%p %y %m %U %G %s %n %l %T@\\n' | \
             sed 's/\\.[0-9]*$//' | sort; find . -type f | sort | xargs sha256sum; \
             getfattr -R -d . 2>/dev/null || true";
        let output = Command::new("sh").args(["-c", command]).current_dir(root).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (ours, theirs) = (listing(&pulled.root), listing(&work.join("theirs/rootfs")));
    assert!(ours.contains("./usr/bin/t f 4711") && ours.contains("./bin l"), "{ours}");
    assert_eq!(ours, theirs);
    assert_eq!(pulled.config.env.last().unwrap(), &("K".to_owned(), "v".to_owned()));
    assert_eq!(pulled.config.workdir.as_deref(), Some("/srv"));
    assert_eq!(pulled.user(None).unwrap().uid, 12);
}
