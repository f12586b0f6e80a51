//! Answers of charon.

use std::marker::PhantomData;

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};

use super::{error::Error, message::Message};

/// The answer to a command: success or failure, and for some commands an id.
#[derive(Debug, Deserialize)]
pub(super) struct Reply<'a> {
    success: Option<&'a str>,
    errmsg: Option<&'a str>,
    pub(super) id: Option<&'a str>,
}

impl<'a> Reply<'a> {
    /// Decodes an answer and returns [`Error::Refused`] unless it reports success.
    pub(super) fn decode(command: &'static str, message: &'a Message) -> Result<Self, Error> {
        let reply: Self = message.decode()?;
        if reply.success == Some("yes") {
            return Ok(reply);
        }
        let reason = reply.errmsg.unwrap_or("no reason given");
        let reason = reason.chars().take(200).filter(|c| !c.is_control()).collect();
        Err(Error::Refused { command, reason })
    }
}

/// A message that consists of one named section.
#[derive(Debug)]
pub(super) struct NamedSection<'a, T>(pub(super) &'a str, pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NamedSection<'de, T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Root<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Root<T> {
            type Value = NamedSection<'de, T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one named section")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let missing = || serde::de::Error::custom("no section");
                let (name, value) = map.next_entry()?.ok_or_else(missing)?;
                match map.next_key::<&str>()? {
                    None => Ok(NamedSection(name, value)),
                    Some(_) => Err(serde::de::Error::custom("more than one section")),
                }
            }
        }
        deserializer.deserialize_map(Root(PhantomData))
    }
}
