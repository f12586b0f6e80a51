//! Events: what has changed about SAs.

use std::{collections::VecDeque, marker::PhantomData, net::IpAddr, path::Path};

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};

use super::{
    error::Error,
    message::Message,
    packet::Packet,
    raw_sa::{RawChildSa, RawIkeSa, host},
    sa::{ChildSa, IkeSa},
    transport::{self, Frames},
};

/// The registered events.
const REGISTERED: [&str; 5] = ["ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update"];

/// Events kept that arrive during registration. Whoever connects lists all SAs afterwards, so further ones add nothing.
const MAX_EARLY: usize = 256;

/// A connection that receives events. The caller must read it without pause: charon's queue has no bound.
#[derive(Debug)]
pub struct Events {
    frames: Frames,
    /// Events that arrived during registration.
    early: VecDeque<Event>,
}

/// A change of an IKE_SA or its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The kind of change.
    pub kind: EventKind,
    /// The connection's name.
    pub ike: String,
    /// The IKE_SA's number; after a rekey, the number of the new IKE_SA.
    pub unique_id: Option<u32>,
    /// The number of the IKE_SA that [`EventKind::IkeRekey`] replaced.
    pub replaced: Option<u32>,
    /// The IKE_SA without its children, if it was readable. [`EventKind::IkeUpdate`] gives its new outer address.
    pub sa: Option<Box<IkeSa>>,
    /// The affected children that were readable. [`EventKind::ChildRekey`] gives the old child, then the new
    /// one. IKE events give none.
    pub children: Vec<ChildSa>,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// An IKE_SA was established.
    IkeUp,
    /// An IKE_SA goes down. Its children go down without events of their own.
    IkeDown,
    /// A new IKE_SA replaced one and took over its children.
    IkeRekey,
    /// A peer's outer address or port changes (NAT rebinding), and with it the kernel's SAs.
    IkeUpdate,
    /// A CHILD_SA is up.
    ChildUp,
    /// A CHILD_SA goes down. The event precedes the removal from the kernel.
    ChildDown,
    /// A new CHILD_SA replaced one.
    ChildRekey,
}

impl Events {
    /// Connects and registers for all events.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let mut frames = transport::open(path).await?;
        let mut early = VecDeque::new();
        for event in REGISTERED {
            transport::register(&mut frames, event, |name, message| {
                let event = Event::decode(&name, &message)?;
                if early.len() < MAX_EARLY {
                    early.push_back(event);
                }
                Ok(())
            })
            .await?;
        }
        Ok(Self { frames, early })
    }

    /// Waits for the next event. Cancel safe. After an error the connection is unusable.
    pub async fn next(&mut self) -> Result<Event, Error> {
        if let Some(event) = self.early.pop_front() {
            return Ok(event);
        }
        match transport::next(&mut self.frames).await? {
            Packet::Event { name, message } => Event::decode(&name, &message),
            other => Err(Error::malformed(format!("{other:?} instead of an event"))),
        }
    }
}

impl Event {
    /// Decodes the message of a registered event.
    pub(super) fn decode(name: &str, message: &Message) -> Result<Self, Error> {
        match name {
            "ike-updown" => updown(message, EventKind::IkeUp, EventKind::IkeDown),
            "child-updown" => updown(message, EventKind::ChildUp, EventKind::ChildDown),
            "ike-update" => updown(message, EventKind::IkeUpdate, EventKind::IkeUpdate),
            "ike-rekey" => {
                let root: Root<'_, RekeyedIke<'_>> = message.decode()?;
                let mut event = Self::new(EventKind::IkeRekey, root.name, &root.section.new)?;
                event.replaced = root.section.old.unique_id();
                Ok(event)
            }
            "child-rekey" => {
                let root: Root<'_, RawIkeSa<'_, RekeyedChild<'_>>> = message.decode()?;
                let mut event = Self::new(EventKind::ChildRekey, root.name, &root.section)?;
                let pairs = root.section.child_sas.values().flat_map(|pair| [&pair.old, &pair.new]);
                event.children = pairs.filter_map(|child| child.parse().ok()).take(2).collect();
                Ok(event)
            }
            other => Err(Error::malformed(format!("event {other:?} without registration"))),
        }
    }

    fn new<C>(kind: EventKind, ike: &str, sa: &RawIkeSa<'_, C>) -> Result<Self, Error> {
        if ike.chars().any(char::is_control) {
            return Err(Error::malformed("control characters in a name"));
        }
        Ok(Self {
            kind,
            ike: ike.to_owned(),
            unique_id: sa.unique_id(),
            replaced: None,
            sa: sa.parse_without_children(ike).ok().map(Box::new),
            children: Vec::new(),
        })
    }
}

fn updown(message: &Message, up: EventKind, down: EventKind) -> Result<Event, Error> {
    let root: Root<'_, RawIkeSa<'_>> = message.decode()?;
    let mut event = Event::new(if root.up { up } else { down }, root.name, &root.section)?;
    event.children = root.section.children().flatten().collect();
    if let (Some(sa), Some(remote_host)) = (&mut event.sa, root.remote_host) {
        sa.remote_host = remote_host;
    }
    Ok(event)
}

#[derive(Debug, Deserialize)]
struct RekeyedIke<'a> {
    #[serde(borrow)]
    old: RawIkeSa<'a>,
    #[serde(borrow)]
    new: RawIkeSa<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RekeyedChild<'a> {
    #[serde(borrow)]
    old: RawChildSa<'a>,
    #[serde(borrow)]
    new: RawChildSa<'a>,
}

/// An event's message: some key/values, and one section named after the connection.
#[derive(Debug)]
struct Root<'a, T> {
    up: bool,
    /// The peer's new outer address, in `ike-update`.
    remote_host: Option<IpAddr>,
    name: &'a str,
    section: T,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Root<'de, T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RootVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for RootVisitor<T> {
            type Value = Root<'de, T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut up = false;
                let mut remote_host = None;
                let mut found = None;
                while let Some(key) = map.next_key::<&str>()? {
                    match key {
                        "up" => up = map.next_value::<&str>()? == "yes",
                        "remote-host" => remote_host = host(map.next_value()?),
                        "local-host" | "local-port" | "remote-port" => {
                            map.next_value::<&str>()?;
                        }
                        name if found.is_none() => found = Some((name, map.next_value()?)),
                        _ => return Err(serde::de::Error::custom("more than one section")),
                    }
                }
                let (name, section) = found.ok_or_else(|| serde::de::Error::custom("no section"))?;
                Ok(Root { up, remote_host, name, section })
            }
        }
        deserializer.deserialize_map(RootVisitor(PhantomData))
    }
}
