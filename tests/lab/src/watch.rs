//! Captures everywhere during an attack: a packet that arrives where nothing may arrive is a leak.
use std::{net::IpAddr, thread, time::Duration};

use anyhow::Result;

use crate::{
    capture::Capture,
    lab::Lab,
    site::{SITES, Spec},
    topology::customers,
};

/// Longest time of a packet through the lab. Under emulation the slowest path takes some 10 ms.
const SETTLE: Duration = Duration::from_millis(150);

/// Captures at every server, every device, and behind the gateway's eth_internet.
#[derive(Debug)]
pub struct Watch {
    ends: Vec<Capture>,
    internet: Capture,
}

impl Watch {
    /// Starts watching.
    pub fn start(lab: &Lab) -> Result<Self> {
        let servers = lab.topology.servers.iter().map(|(_, server)| server);
        let ends = servers.chain(&lab.topology.devices).map(|end| Capture::start(end, "eth0"));
        Ok(Self {
            ends: ends.collect::<Result<_>>()?,
            internet: Capture::start(&lab.topology.internet, "gateway")?,
        })
    }

    /// Waits for packets in flight. Returns every packet that reached a server or a device, and every packet
    /// that left the gateway towards the internet as anything but ESP or IKE.
    pub fn leaks(self) -> Result<Vec<String>> {
        thread::sleep(SETTLE);
        let mut leaks = internet_leaks(self.internet)?;
        for end in self.ends {
            let place = end.place.clone();
            let arrived = end.stop()?.into_iter().filter(|frame| !frame.outgoing && !frame.is_link_control());
            leaks.extend(arrived.map(|frame| format!("{} reached {place}", frame.describe())));
        }
        Ok(leaks)
    }

    /// Works like [`Watch::leaks`], but allows packets between devices and their own customers' servers.
    pub fn astray(self) -> Result<Vec<String>> {
        thread::sleep(SETTLE);
        let mut astray = internet_leaks(self.internet)?;
        let at_servers = customers().map(|(customer, _)| {
            let own = SITES.iter().filter(|site| site.customer == customer);
            own.flat_map(Spec::ends).map(|ends| ends.device).collect()
        });
        let at_devices = SITES.iter().map(|site| site.ends().into_iter().map(|ends| ends.server).collect());
        for (end, known) in self.ends.into_iter().zip(at_servers.chain(at_devices)) {
            let known: Vec<IpAddr> = known;
            let place = end.place.clone();
            let stray = end.stop()?.into_iter().filter(|frame| {
                let from_known = frame.addresses().is_some_and(|(source, _)| known.contains(&source));
                !frame.outgoing && !frame.is_link_control() && !from_known
            });
            astray.extend(stray.map(|frame| format!("{} reached {place}", frame.describe())));
        }
        Ok(astray)
    }

    /// Works like [`Watch::leaks`], but allows all packets at servers and devices.
    pub fn plaintext_on_the_internet(self) -> Result<Vec<String>> {
        thread::sleep(SETTLE);
        internet_leaks(self.internet)
    }
}

fn internet_leaks(internet: Capture) -> Result<Vec<String>> {
    let left =
        internet.stop()?.into_iter().filter(|frame| !frame.outgoing && !frame.is_link_control_or_ipsec());
    Ok(left.map(|frame| format!("{} left eth_internet", frame.describe())).collect())
}
