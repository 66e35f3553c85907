//! The id of a node, and its name in certificates.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The domain of the names in certificates. It is not resolved: a node is reached by its
/// URL, and `internal` is reserved for names that are not in the public DNS.
pub(crate) const DOMAIN: &str = "isorun.internal";

/// The number of hexadecimal digits in an id.
const ID_DIGITS: usize = 16;

/// The id of a node: `node` and 16 hexadecimal digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// Creates a random id.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; ID_DIGITS / 2];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("node{}", hex::encode(bytes))))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the only name of the node's certificate, `<id>.isorun.internal`.
    #[must_use]
    pub fn dns_name(&self) -> String {
        format!("{}.{DOMAIN}", self.0)
    }

    /// Returns the node with this name in its certificate.
    pub(crate) fn from_dns_name(name: &str) -> Option<Self> {
        name.strip_suffix(DOMAIN)?.strip_suffix('.')?.parse().ok()
    }
}

/// An error for a text that is not a valid node id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id is `node` and 16 hex digits in lower case, such as node0123456789abcdef")]
pub struct InvalidNodeId;

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        let digits = text.strip_prefix("node").ok_or(InvalidNodeId)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == ID_DIGITS && digits.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidNodeId)
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: String) -> Result<Self, InvalidNodeId> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_ids_are_rejected() {
        assert!("node0123456789abcdef".parse::<NodeId>().is_ok());
        for text in [
            "",
            "node",
            "0123456789abcdef",
            "node0123456789ABCDEF",
            "node0123456789abcde",
            "node0123456789abcdef0",
            "run0123456789abcdef",
            "node../../../../etc/",
        ] {
            assert_eq!(text.parse::<NodeId>(), Err(InvalidNodeId), "{text}");
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<NodeId>(&json).is_err(), "{text}");
        }
    }

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (one, two) = (NodeId::random().unwrap(), NodeId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.to_string().parse::<NodeId>().unwrap(), one);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, format!("\"{one}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), one);
    }

    #[test]
    fn only_the_exact_name_of_a_certificate_is_a_node() {
        let node = NodeId::random().unwrap();
        assert_eq!(NodeId::from_dns_name(&node.dns_name()), Some(node.clone()));
        for name in [
            node.to_string(),
            format!("{node}.isorun.internal."),
            format!("{node}isorun.internal"),
            format!("{node}.example.com"),
            format!("a.{node}.isorun.internal"),
            "*.isorun.internal".to_owned(),
            "isorun.internal".to_owned(),
        ] {
            assert_eq!(NodeId::from_dns_name(&name), None, "{name}");
        }
    }
}
