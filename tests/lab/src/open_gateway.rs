//! A gateway with tunnels but no firewall, for `--without-gatewayd`: shows what the attacks achieve.
use std::fmt::Write;

use ::gateway::strongswan::{Child, Connection, Local, Marks, PeerIdentity, Remote, Revocation};
use anyhow::Result;
use gateway_tests_kit::{namespace::Namespace, process::run_with_input};

use crate::{
    charon::Charon,
    pki::{Authority, Issued},
    site::{GATEWAY_IDENTITY, SITES},
};

/// Loads a connection for each site and turns on forwarding. Packets from servers get the mark of the
/// destination's tunnel, so that customers may have equal LANs (docs/facts.md: marks-separate-equal-lans).
pub fn start(namespace: &Namespace, charon: &Charon, authority: &Authority, own: &Issued) -> Result<()> {
    for (id, site) in (1..).zip(&SITES) {
        let local = Local {
            identity: GATEWAY_IDENTITY.to_owned(),
            certificate: own.certificate_pem.as_bytes().into(),
        };
        let remote = Remote {
            identity: PeerIdentity::Name(site.identity.to_owned()),
            authority: authority.certificate_pem().as_bytes().into(),
            revocation: Revocation::Relaxed,
        };
        let mut child = Child::new(site.full_name(), site.servers(), site.lans()?);
        child.reqid = Some(id);
        child.marks = Marks::Fixed(id);
        let mut connection = Connection::new(site.full_name(), local, remote);
        connection.children = vec![child];
        charon.load(&connection, &own.key_pem)?;
    }
    run_with_input(namespace.command("nft").args(["-f", "-"]), &marks()?)?;
    namespace.set_sysctl("ipv4/ip_forward", "1")?;
    namespace.set_sysctl("ipv6/conf/all/forwarding", "1")
}

fn marks() -> Result<String> {
    let mut rules = String::new();
    for (mark, site) in (1_u32..).zip(&SITES) {
        for (server, lan) in site.servers().iter().zip(site.lans()?) {
            let (family, server) = (if lan.addr().is_ipv4() { "ip" } else { "ip6" }, server.addr());
            writeln!(
                rules,
                "    iifname \"eth_lan\" {family} saddr {server} {family} daddr {lan} meta mark set {mark}"
            )?;
        }
    }
    Ok(format!(
        "table inet tunnel_marks {{
  chain prerouting {{
    type filter hook prerouting priority mangle
{rules}  }}
}}
"
    ))
}
