//! Parses manifests, indexes and configurations from untrusted bytes.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Arch, Descriptor, Digest, ImageIndex, ImageManifest, Os};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::Configuration;
use super::digest::{self, Hasher};
use super::error::{Error, Result};
use super::limits::Limits;

/// The `Accept` header of manifest requests.
pub(crate) const MANIFEST_MEDIA_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The platform that an image runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: Os,
    architecture: Arch,
    variant: Option<String>,
}

impl Default for Platform {
    /// Linux on this machine's architecture.
    fn default() -> Self {
        Self { os: Os::Linux, architecture: Arch::default(), variant: None }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let valid =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        match (os, architecture) {
            (Some(os), Some(architecture))
                if [os, architecture].into_iter().chain(variant).all(valid)
                    && parts.next().is_none() =>
            {
                Ok(Self {
                    os: Os::from(os),
                    architecture: Arch::from(architecture),
                    variant: variant.map(str::to_owned),
                })
            }
            _ => Err(Error::Malformed {
                what: format!("the platform {text:?}"),
                reason: "expected os/architecture[/variant], such as linux/amd64 or linux/arm/v7"
                    .to_owned(),
            }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl Platform {
    /// Returns how far an image's platform is from this one, 0 for an exact match,
    /// or `None` if the image does not run on it.
    fn distance(&self, os: &Os, architecture: &Arch, variant: Option<&str>) -> Option<u32> {
        if (os, architecture) != (&self.os, &self.architecture) {
            return None;
        }
        let variant = variant.filter(|variant| !variant.is_empty());
        match (self.variant.as_deref(), variant) {
            (wanted, found) if wanted == found => Some(0),
            // The baseline variant runs on every machine of the architecture:
            // `v8` of arm64, `v1` of amd64.
            (None, Some("v8" | "v1")) | (Some("v8" | "v1"), None) => Some(1),
            (None, Some(_)) if *architecture == Arch::ARM => Some(2),
            (Some(_), None) => Some(3),
            _ => None,
        }
    }
}

/// A manifest of one image, or an index of several.
pub(crate) enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

impl Document {
    /// Parses a manifest or an index; `what` names it in errors.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        /// The fields that distinguish the kinds of documents. No others are kept: a
        /// document of 4 MiB as a tree of JSON values takes a hundred times that.
        #[derive(Deserialize)]
        struct Outline {
            #[serde(rename = "schemaVersion", default)]
            version: Option<u64>,
            #[serde(default)]
            manifests: Option<IgnoredAny>,
            #[serde(default)]
            layers: Option<IgnoredAny>,
        }
        let malformed = |reason: String| Error::Malformed { what: what.to_owned(), reason };
        let outline: Outline = serde_json::from_slice(bytes).map_err(|error| {
            malformed(match serde_json::from_slice::<IgnoredAny>(bytes) {
                Ok(_) => format!("it is not a manifest ({error})"),
                Err(error) => format!("it is not valid JSON ({error})"),
            })
        })?;
        match outline.version {
            Some(2) => {}
            Some(1) => {
                return Err(Error::Unsupported {
                    what: what.to_owned(),
                    reason: "its schema is version 1, which Docker deprecated in 2017: \
                             push the image again with a recent tool"
                        .to_owned(),
                });
            }
            _ => return Err(malformed("its schemaVersion is not 2".to_owned())),
        }
        let parsed = match (outline.manifests, outline.layers) {
            (Some(_), None) => {
                serde_json::from_slice(bytes).map(|index| Document::Index(Box::new(index)))
            }
            (None, Some(_)) => {
                serde_json::from_slice(bytes).map(|manifest| Document::Manifest(Box::new(manifest)))
            }
            _ => return Err(malformed("it must have either manifests or layers".to_owned())),
        };
        parsed.map_err(|error| malformed(error.to_string()))
    }
}

/// Selects the manifest in an index whose platform is closest to the wanted one.
pub(crate) fn choose<'a>(
    reference: &str,
    index: &'a ImageIndex,
    wanted: &Platform,
) -> Result<&'a Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    let mut available = Vec::new();
    let single = index.manifests().len() == 1;
    for descriptor in index.manifests() {
        let distance = match descriptor.platform() {
            Some(platform) => {
                let (os, architecture) = (platform.os(), platform.architecture());
                let variant = platform.variant().as_deref();
                // Attestations are listed as images for an unknown platform.
                if os.to_string() != "unknown" {
                    let shown = Platform {
                        os: os.clone(),
                        architecture: architecture.clone(),
                        variant: variant.map(str::to_owned),
                    };
                    available.push(shown.to_string());
                }
                wanted.distance(os, architecture, variant)
            }
            // The platform is in the configuration, and is checked there.
            None if single => Some(0),
            None => None,
        };
        if let Some(distance) = distance
            && best.is_none_or(|(least, _)| distance < least)
        {
            best = Some((distance, descriptor));
        }
    }
    best.map(|(_, descriptor)| descriptor).ok_or_else(|| Error::Platform {
        reference: reference.to_owned(),
        wanted: wanted.to_string(),
        available: list(available),
    })
}

/// One image: a manifest, its configuration, and their validated content.
#[derive(Debug)]
pub(crate) struct ImagePlan {
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) layers: Vec<Layer>,
    /// Bytes of all layers, compressed.
    pub(crate) bytes: u64,
    /// The ChainID of the layers, which names the directory they are unpacked to.
    pub(crate) chain_id: Digest,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The name in messages: `layer 2 of 5 (sha256:0123456789ab)`.
    pub(crate) name: String,
    /// The digest of the compressed archive.
    pub(crate) digest: Digest,
    /// The size of the compressed archive, in bytes.
    pub(crate) size: u64,
    /// The digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
}

/// Checks a manifest's layers against the limits, before anything is fetched.
/// Returns the bytes of all compressed layers.
pub(crate) fn check_manifest(manifest: &ImageManifest, limits: &Limits) -> Result<u64> {
    let count = manifest.layers().len();
    if count > limits.layers {
        return Err(Error::TooLarge {
            what: format!("an image of {count} layers"),
            limit: limits.layers.to_string(),
        });
    }
    let mut bytes = 0_u64;
    Hasher::like(manifest.config().digest(), "the configuration")?;
    for layer in manifest.layers() {
        Hasher::like(layer.digest(), "a layer")?;
        let kind = layer.media_type().to_string();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            return Err(Error::Unsupported {
                what: "a layer that must be fetched from another host".to_owned(),
                reason: kind,
            });
        }
        bytes = bytes.saturating_add(layer.size());
    }
    if bytes > limits.download {
        return Err(Error::TooLarge {
            what: format!("an image of {bytes} bytes"),
            limit: format!("{} bytes", limits.download),
        });
    }
    Ok(bytes)
}

impl ImagePlan {
    /// Validates a manifest and its configuration against each other, the platform
    /// and the limits.
    pub(crate) fn new(
        reference: &str,
        manifest_bytes: Vec<u8>,
        manifest_digest: Digest,
        manifest: &ImageManifest,
        config: Vec<u8>,
        wanted: &Platform,
        limits: &Limits,
    ) -> Result<Self> {
        let what = format!("the configuration of {reference}");
        let bytes = check_manifest(manifest, limits)?;
        let configuration = Configuration::parse(&what, &config)?;
        let (os, architecture) = (&configuration.os, &configuration.architecture);
        if wanted.distance(os, architecture, configuration.variant.as_deref()).is_none() {
            return Err(Error::Platform {
                reference: reference.to_owned(),
                wanted: wanted.to_string(),
                available: format!("{os}/{architecture}"),
            });
        }
        let diff_ids = &configuration.rootfs.diff_ids;
        let count = manifest.layers().len();
        if diff_ids.len() != count {
            return Err(Error::Malformed {
                what,
                reason: format!("it lists {} layers, but the manifest {count}", diff_ids.len()),
            });
        }
        let mut layers = Vec::with_capacity(count);
        for (at, (layer, diff_id)) in manifest.layers().iter().zip(diff_ids).enumerate() {
            let short: String = layer.digest().digest().chars().take(12).collect();
            layers.push(Layer {
                name: format!("layer {} of {count} ({short})", at + 1),
                digest: layer.digest().clone(),
                size: layer.size(),
                diff_id: digest::parse(&what, diff_id)?,
            });
        }
        let chain_id = chain_id(layers.iter().map(|layer| &layer.diff_id));
        Ok(Self {
            config_digest: manifest.config().digest().clone(),
            manifest: manifest_bytes,
            manifest_digest,
            config,
            layers,
            bytes,
            chain_id,
        })
    }
}

/// Computes the ChainID of the OCI image specification, which identifies an ordered
/// list of layers.
fn chain_id<'a>(diff_ids: impl Iterator<Item = &'a Digest>) -> Digest {
    diff_ids
        .fold(None, |parent: Option<Digest>, diff_id| {
            Some(match parent {
                Some(parent) => digest::of(format!("{parent} {diff_id}").as_bytes()),
                None => diff_id.clone(),
            })
        })
        .unwrap_or_else(|| digest::of(b""))
}

fn list(mut names: Vec<String>) -> String {
    names.truncate(20);
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifests: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(at, platform)| {
                let mut parts = platform.split('/');
                let mut described = serde_json::json!({
                    "os": parts.next(), "architecture": parts.next(),
                });
                if let Some(variant) = parts.next() {
                    described["variant"] = variant.into();
                }
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": format!("sha256:{at:064x}"),
                    "size": 10,
                    "platform": described,
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "schemaVersion": 2, "manifests": manifests }))
            .unwrap()
    }

    #[test]
    fn closest_platform_is_chosen() {
        for (wanted, offered, expected) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/amd64", &["unknown/unknown", "linux/amd64/v1"], Some(1)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/amd64/v3"], None),
            ("linux/arm64", &["linux/arm64/v8"], Some(0)),
            ("linux/arm64/v8", &["linux/arm64"], Some(0)),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
            ("linux/arm/v7", &["linux/arm/v6"], None),
            ("linux/amd64", &["windows/amd64"], None),
            ("linux/amd64", &[], None),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            let index = index(offered);
            let chosen = choose("image", &index, &wanted).ok().map(|d| d.digest().to_string());
            let expected = expected.map(|at: usize| format!("sha256:{at:064x}"));
            assert_eq!(chosen, expected, "{wanted} of {offered:?}");
        }
    }

    #[test]
    fn invalid_documents_are_refused() {
        for bytes in [
            "",
            "<html>",
            "{}",
            "[]",
            "null",
            r#"{"schemaVersion":3,"layers":[]}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#,
            r#"{"schemaVersion":2,"layers":[{}],"config":{}}"#,
            r#"{"schemaVersion":2,"manifests":[{"digest":"../../etc","size":1,"mediaType":"a"}]}"#,
            r#"{"schemaVersion":2,"manifests":"no"}"#,
        ] {
            match Document::parse("it", bytes.as_bytes()) {
                Err(Error::Malformed { .. }) => {}
                Err(other) => panic!("{bytes}: {other}"),
                Ok(_) => panic!("{bytes}"),
            }
        }
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(Document::parse("it", old), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn chain_ids_match_the_specification() {
        let diffs = [digest::of(b"a"), digest::of(b"b")];
        assert_eq!(chain_id(diffs[..1].iter()), diffs[0]);
        let both = digest::of(format!("{} {}", diffs[0], diffs[1]).as_bytes());
        assert_eq!(chain_id(diffs.iter()), both);
    }

    #[test]
    fn platforms_have_one_form() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "linux/amd64/v1/x", "linux/am d64", "/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
