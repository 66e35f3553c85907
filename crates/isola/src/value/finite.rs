//! Finds the floats that JSON has no text for.
//!
//! serde_json writes a NaN as `null`. That loses data without a word, so a
//! value is walked first, and refused with the place of the offender.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize, Serializer};

use crate::error::Error;

/// Refuses a value that holds a NaN or an infinity.
pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), Error> {
    let mut walk = Walk { path: String::from("$") };
    match value.serialize(&mut walk) {
        Err(Refusal::NotFinite(float)) => Err(Error::InvalidArgument(format!(
            "cannot send {} to the guest: {float} is not a JSON value",
            walk.path
        ))),
        // Whatever else a type has against being serialized, serde_json says
        // it in its own words.
        Ok(()) | Err(Refusal::Other) => Ok(()),
    }
}

/// The path of the value that is being walked. It is left as it was at the
/// first refusal.
struct Walk {
    path: String,
}

#[derive(Debug)]
enum Refusal {
    NotFinite(f64),
    Other,
}

impl Walk {
    fn descend<T: Serialize + ?Sized>(
        &mut self,
        step: impl Display,
        value: &T,
    ) -> Result<(), Refusal> {
        use fmt::Write as _;
        let length = self.path.len();
        let _ = write!(self.path, "{step}");
        value.serialize(&mut *self)?;
        self.path.truncate(length);
        Ok(())
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not finite")
    }
}

impl std::error::Error for Refusal {}

impl ser::Error for Refusal {
    fn custom<T: Display>(_: T) -> Self {
        Self::Other
    }
}

struct Items<'a> {
    walk: &'a mut Walk,
    next: usize,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        let index = self.next;
        self.next += 1;
        self.walk.descend(format_args!("[{index}]"), value)
    }
}

struct Members<'a> {
    walk: &'a mut Walk,
    key: String,
}

impl Members<'_> {
    fn member<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), Refusal> {
        self.walk.descend(format_args!(".{key}"), value)
    }
}

macro_rules! nothing_to_check {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, _: $type) -> Result<(), Refusal> { Ok(()) })*
    };
}

impl<'a> Serializer for &'a mut Walk {
    type Ok = ();
    type Error = Refusal;
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

    fn serialize_f32(self, value: f32) -> Result<(), Refusal> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Refusal> {
        if value.is_finite() { Ok(()) } else { Err(Refusal::NotFinite(value)) }
    }

    fn serialize_unit(self) -> Result<(), Refusal> {
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Refusal> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refusal> {
        value.serialize(self)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refusal> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refusal> {
        self.descend(format_args!(".{variant}"), value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, Refusal> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'a>, Refusal> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a>, Refusal> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Items<'a>, Refusal> {
        Ok(Items { walk: self, next: 0 })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'a>, Refusal> {
        Ok(Members { walk: self, key: String::new() })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members<'a>, Refusal> {
        Ok(Members { walk: self, key: String::new() })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Members<'a>, Refusal> {
        Ok(Members { walk: self, key: String::new() })
    }
}

macro_rules! items {
    ($($trait:ident::$method:ident)*) => {$(
        impl ser::$trait for Items<'_> {
            type Ok = ();
            type Error = Refusal;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
                self.item(value)
            }

            fn end(self) -> Result<(), Refusal> {
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
            type Error = Refusal;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Refusal> {
                self.member(key, value)
            }

            fn end(self) -> Result<(), Refusal> {
                Ok(())
            }
        }
    )*};
}

members! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Members<'_> {
    type Ok = ();
    type Error = Refusal;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refusal> {
        self.key = serde_json::to_value(key)
            .ok()
            .map(|key| key.as_str().map_or_else(|| key.to_string(), ToOwned::to_owned))
            .ok_or(Refusal::Other)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        let key = std::mem::take(&mut self.key);
        self.member(&key, value)
    }

    fn end(self) -> Result<(), Refusal> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::value::Value;

    #[test]
    fn names_the_place_of_what_is_not_finite() {
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
