//! The namespaces: the gateway, the devices, the attacker's site, the servers and the internet. The gateway
//! has an interface for each site, which receives decapsulated packets, one to the internet for outer
//! packets, and one to the cloud LAN.
use anyhow::Result;
use gateway_tests_kit::{namespace::Namespace, process, text::mac_text};

use crate::party::{ATTACKER, GATEWAY, GATEWAY_MAC, Party, ROUTER_MAC};

/// Next hops of the devices, as the gateway's addresses. No interface has them.
const VIA: [&str; 2] = ["169.254.0.1", "fe80::1"];

/// All namespaces.
pub struct Ground {
    /// The gateway, linked to all others.
    pub gateway: Namespace,
    /// The victims' devices, each on the interface of its site.
    pub devices: Namespace,
    /// The attacker's site.
    pub attacker: Namespace,
    /// All servers.
    pub servers: Namespace,
    /// All senders of outer packets, on the interface `internet`.
    pub internet: Namespace,
}

impl Ground {
    /// Creates the namespaces with routes and without any filter. Each one's name begins with `name`.
    pub fn create(name: &str) -> Result<Self> {
        let make = |part: &str, forwards| -> Result<Namespace> {
            let namespace = Namespace::create(&format!("{name}-{part}"), forwards)?;
            for (key, value) in [
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                ("ipv6/conf/all/forwarding", if forwards { "1" } else { "0" }),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
            ] {
                namespace.set_sysctl(key, value)?;
            }
            Ok(namespace)
        };
        let ground = Self {
            gateway: make("gateway", true)?,
            devices: make("devices", false)?,
            attacker: make("attacker", false)?,
            servers: make("servers", false)?,
            internet: make("internet", false)?,
        };
        batch(&ground.gateway, &ground.links())?;
        batch(&ground.servers, &servers())?;
        batch(&ground.devices, &devices())?;
        // The attacker needs no addresses: it sends and receives whole frames.
        batch(&ground.attacker, &format!("link set {} up\n", ATTACKER.interface()))?;
        // New sites have addresses of their own.
        batch(
            &ground.internet,
            "link set lo up\nlink set internet up\nroute add local 198.19.0.0/16 dev lo\n",
        )?;
        Ok(ground)
    }

    fn links(&self) -> String {
        let mac = mac_text(GATEWAY_MAC);
        let veth = |name: &str, peer_mac: &str, namespace: &Namespace| {
            let peer = namespace.name();
            format!(
                "link add {name} address {mac} type veth peer name {name} address {peer_mac} netns {peer}\n\
                 link set {name} up\n"
            )
        };
        let mut lines = veth("internet", &mac_text(ROUTER_MAC), &self.internet);
        lines += &veth("lan", "52:54:00:00:00:02", &self.servers);
        for address in GATEWAY {
            let bits = if address.is_ipv4() { 24 } else { 64 };
            lines += &format!("addr add {address}/{bits} dev internet\n");
        }
        let router = mac_text(ROUTER_MAC);
        lines += &format!(
            "addr add 10.200.0.1/24 dev lan\naddr add fd00:200::1/64 dev lan nodad\n\
             neigh add 203.0.113.254 lladdr {router} dev internet nud permanent\n\
             route add default via 203.0.113.254 dev internet\n"
        );
        for party in Party::all() {
            let namespace = if party == ATTACKER { &self.attacker } else { &self.devices };
            let (name, mac) = (party.interface(), mac_text(party.mac()));
            lines += &veth(&name, &mac, namespace);
            let (device4, device6) = (party.lan4(2), party.lan6(2));
            lines += &format!(
                "neigh add {device4} lladdr {mac} dev {name} nud permanent\n\
                 neigh add {device6} lladdr {mac} dev {name} nud permanent\n\
                 route add {}/16 via {device4} dev {name} onlink\n\
                 route add {device6}/128 dev {name}\n\
                 route add {}/48 via {device6} dev {name}\n",
                party.lan4(0),
                party.lan6(0)
            );
        }
        lines
    }
}

fn servers() -> String {
    let mut lines = String::from("link set lan up\nlink set lo up\n");
    for party in Party::all() {
        lines += &format!(
            "addr add {}/24 dev lan\naddr add {}/64 dev lan nodad\n",
            party.server4(),
            party.server6()
        );
    }
    lines + "route add default via 10.200.0.1\nroute add default via fd00:200::1\n"
}

/// Returns the devices' setup. The only route to a server is over the interface of its customer's site.
fn devices() -> String {
    let mut lines = String::new();
    let gateway = mac_text(GATEWAY_MAC);
    for party in Party::victims() {
        let name = party.interface();
        let (device4, device6) = (party.lan4(2), party.lan6(2));
        lines += &format!(
            "link set {name} up\naddr add {device4}/32 dev {name}\naddr add {device6}/128 dev {name} nodad\n"
        );
        for via in VIA {
            lines += &format!("neigh add {via} lladdr {gateway} dev {name} nud permanent\n");
        }
        lines += &format!(
            "route add {}/32 via {} dev {name} onlink src {device4}\n\
             route add {}/128 via {} dev {name} src {device6}\n",
            party.server4(),
            VIA[0],
            party.server6(),
            VIA[1]
        );
    }
    lines
}

fn batch(namespace: &Namespace, lines: &str) -> Result<()> {
    process::run_with_input(namespace.command("ip").args(["-batch", "-"]), lines).map(drop)
}
