//! The check for floats that JSON cannot represent.
//!
//! serde_json writes a NaN as `null`, which loses data silently. So a value is
//! traversed first, and refused with the path of such a float.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize, Serializer};

use crate::error::Error;

/// Refuses a value that holds a NaN or an infinity.
pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), Error> {
    let mut walk = PathWalker { path: String::from("$") };
    match value.serialize(&mut walk) {
        Err(CheckError::NotFinite(float)) => Err(Error::InvalidArgument(format!(
            "cannot send {} to the guest: {float} is not a JSON value",
            walk.path
        ))),
        // Other errors are reported by serde_json itself.
        Ok(()) | Err(CheckError::Other) => Ok(()),
    }
}

/// A serializer that tracks the path of the current value. The path is kept at the
/// first refusal.
struct PathWalker {
    path: String,
}

#[derive(Debug)]
enum CheckError {
    NotFinite(f64),
    Other,
}

impl PathWalker {
    fn descend<T: Serialize + ?Sized>(
        &mut self,
        step: impl Display,
        value: &T,
    ) -> Result<(), CheckError> {
        use fmt::Write as _;
        let length = self.path.len();
        let _ = write!(self.path, "{step}");
        value.serialize(&mut *self)?;
        self.path.truncate(length);
        Ok(())
    }
}

impl Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not finite")
    }
}

impl std::error::Error for CheckError {}

impl ser::Error for CheckError {
    fn custom<T: Display>(_: T) -> Self {
        Self::Other
    }
}

struct Items<'a> {
    walk: &'a mut PathWalker,
    next: usize,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CheckError> {
        let index = self.next;
        self.next += 1;
        self.walk.descend(format_args!("[{index}]"), value)
    }
}

struct Members<'a> {
    walk: &'a mut PathWalker,
    key: String,
}

impl Members<'_> {
    fn member<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), CheckError> {
        self.walk.descend(format_args!(".{key}"), value)
    }
}

macro_rules! nothing_to_check {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, _: $type) -> Result<(), CheckError> { Ok(()) })*
    };
}

impl<'a> Serializer for &'a mut PathWalker {
    type Ok = ();
    type Error = CheckError;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Items<'a>;
    type SerializeMap = Members<'a>;
    type SerializeStruct = Members<'a>;
    type SerializeStructVariant = Members<'a>;

    nothing_to_check! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_u128(u128)
        serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_unit_struct(&'static str)
    }

    fn serialize_f32(self, value: f32) -> Result<(), CheckError> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), CheckError> {
        if value.is_finite() { Ok(()) } else { Err(CheckError::NotFinite(value)) }
    }

    fn serialize_unit(self) -> Result<(), CheckError> {
        Ok(())
    }

    fn serialize_none(self) -> Result<(), CheckError> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CheckError> {
        value.serialize(self)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), CheckError> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), CheckError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CheckError> {
        self.descend(format_args!(".{variant}"), value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, CheckError> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'a>, CheckError> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a>, CheckError> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Items<'a>, CheckError> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'a>, CheckError> {
        Ok(Members { walk: self, key: String::new() })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members<'a>, CheckError> {
        Ok(Members { walk: self, key: String::new() })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Members<'a>, CheckError> {
        Ok(Members { walk: self, key: String::new() })
    }
}

macro_rules! items {
    ($($trait:ident::$method:ident)*) => {$(
        impl ser::$trait for Items<'_> {
            type Ok = ();
            type Error = CheckError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CheckError> {
                self.item(value)
            }

            fn end(self) -> Result<(), CheckError> {
                Ok(())
            }
        }
    )*};
}

items! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! members {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Members<'_> {
            type Ok = ();
            type Error = CheckError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), CheckError> {
                self.member(key, value)
            }

            fn end(self) -> Result<(), CheckError> {
                Ok(())
            }
        }
    )*};
}

members! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Members<'_> {
    type Ok = ();
    type Error = CheckError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CheckError> {
        self.key = serde_json::to_value(key)
            .ok()
            .map(|key| key.as_str().map_or_else(|| key.to_string(), ToOwned::to_owned))
            .ok_or(CheckError::Other)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CheckError> {
        let key = std::mem::take(&mut self.key);
        self.member(&key, value)
    }

    fn end(self) -> Result<(), CheckError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::value::Value;

    #[test]
    fn error_contains_the_path_of_a_number_that_is_not_finite() {
        #[derive(serde::Serialize)]
        struct Item {
            price: f64,
        }
        let items =
            BTreeMap::from([("items", vec![Item { price: 1.0 }, Item { price: f64::NAN }])]);
        let error = Value::new(&items).unwrap_err().to_string();
        assert!(error.contains("$.items[1].price"), "{error}");
        assert!(error.contains("NaN"), "{error}");
        assert!(Value::new(&f32::INFINITY).is_err());
        assert_eq!(Value::new(&Some(1.5)).unwrap().as_str(), "1.5");
    }
}
