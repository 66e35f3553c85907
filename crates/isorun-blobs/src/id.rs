//! The ids of trees.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of a stored tree: `tree` and 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreeId([u8; 16]);

impl TreeId {
    /// The beginning of every id.
    const PREFIX: &str = "tree";

    /// Creates an id from 16 random bytes.
    pub(crate) fn new(random: [u8; 16]) -> Self {
        Self(random)
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, hex::encode(self.0))
    }
}

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the id of a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a tree: expected `tree` and 32 lower-case hexadecimal digits")]
pub struct InvalidTreeId;

impl FromStr for TreeId {
    type Err = InvalidTreeId;

    fn from_str(text: &str) -> Result<Self, InvalidTreeId> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(InvalidTreeId)?;
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_| InvalidTreeId)?;
        // An id has one spelling only.
        let id = Self(id);
        if id.to_string() == text { Ok(id) } else { Err(InvalidTreeId) }
    }
}

impl TryFrom<String> for TreeId {
    type Error = InvalidTreeId;

    fn try_from(text: String) -> Result<Self, InvalidTreeId> {
        text.parse()
    }
}

impl From<TreeId> for String {
    fn from(id: TreeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = TreeId::new([0xab; 16]);
        let text = format!("tree{}", "ab".repeat(16));
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id));
        for wrong in ["", "tree", &text[1..], &text[..35], &text.to_uppercase(), "tree/../../x"] {
            assert_eq!(wrong.parse::<TreeId>(), Err(InvalidTreeId), "{wrong}");
        }
        assert_eq!(format!("{text}0").parse::<TreeId>(), Err(InvalidTreeId));
        assert_eq!(format!("tree{}", "AB".repeat(16)).parse::<TreeId>(), Err(InvalidTreeId));
    }
}
