//! The cost of control in wall-clock milliseconds: loading all customers, and adding one, with this project
//! and with the contenders' own tools.
//!
//! This project runs gatewayd's code. It starts at the parsed policy with its ids, as contenders start at the
//! text of a ruleset, and ends when the maps are filled. Reading policy files and keeping ids on disk have no
//! counterpart in the contenders' tools; their times are printed separately to stderr.
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use gateway::{
    control::{
        apply::apply_all,
        desired::{Desired, Links, desired, desired_of},
        observed::{observe, observe_of},
        plan::{Action, plan, plan_some},
    },
    kernel::{
        interface::Interface,
        maps::Maps,
        pins::Pins,
        programs::{self, Purpose, Sizes},
    },
    policy::{self, Policy},
    registry::{Assignment, Registry},
};
use gateway_common::layout::{Binding, Tunnel};
use gateway_tests_kit::{
    namespace::Namespace,
    process::{output, run_with_input},
    random::Random,
};

use super::{
    contender::{Contender, Setup},
    figure::{Figure, Measured, Unit},
    rules::{self, LAN, PORT, Ruleset, SERVERS},
    statistics::{extremes, median},
    workload::Workload,
};

/// The directory of policies, ids and pins, in the process's own `/run`.
const DIRECTORY: &str = "/run/gateway-bench";
/// A contender stops after a change that takes longer than this.
const LONG: Duration = Duration::from_secs(2);

/// Command-line choice of measurements.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// At most 10,000 customers and fewer rounds
    #[arg(long)]
    pub quick: bool,
    /// Only this project
    #[arg(long)]
    pub ours: bool,
    /// Numbers of customers
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub customers: Vec<u32>,
}

impl Choices {
    fn customers(&self) -> Vec<u32> {
        match (self.customers.is_empty(), self.quick) {
            (false, _) => self.customers.clone(),
            (true, true) => vec![1, 100, 10_000],
            (true, false) => vec![1, 100, 10_000, 100_000],
        }
    }
}

/// Measures everything selected and prints a figure for each measurement.
pub fn run(choices: &Choices) -> Result<()> {
    for customers in choices.customers() {
        eprintln!("{customers} customers:");
        for &contender in Contender::ALL.iter().filter(|contender| contender.row().control) {
            let result = match contender.row().setup {
                Setup::Gateway(_) => ours(contender, customers, choices.quick),
                Setup::Ruleset(_) if choices.ours => Ok(()),
                Setup::Ruleset(ruleset) => theirs(contender, ruleset, customers, choices.quick),
                Setup::DropAtIngress | Setup::Nothing | Setup::CallsOnly => Err(anyhow!("it has no control")),
            };
            result.with_context(|| format!("{contender} with {customers} customers"))?;
        }
    }
    Ok(())
}

/// The state of gatewayd that loading and changing customers works on.
struct Ours {
    policy: Policy,
    ids: Assignment,
    internet: Interface,
    lan: Interface,
    maps: Maps,
    pins: Pins,
}

fn ours(contender: Contender, customers: u32, quick: bool) -> Result<()> {
    // The additional customer is the change.
    let mut ours = Ours::new(customers + 1)?;
    let last = ours.policy.customers.keys().next_back().cloned().context("no customer")?;
    let late = ours.policy.customers.remove(&last).context("no customer")?;
    let mut loads = Vec::new();
    for _ in 0..if quick { 3 } else { 7 } {
        loads.push(ours.load()?);
        ours.clear()?;
    }
    report(contender, Workload::LoadAll, customers, &loads)?;

    ours.load()?;
    let older = ours.policy.clone();
    ours.policy.customers.insert(last, late);
    ensure!(ours.policy.changes(&older).is_some_and(|changed| changed.len() == 1), "one change");
    let mut changes = Vec::new();
    for _ in 0..if quick { 200 } else { 1000 } {
        let (lasted, actions) = ours.change()?;
        ensure!(!actions.is_empty(), "the change has no actions");
        changes.push(lasted);
        ours.undo(&actions)?;
    }
    report(contender, Workload::ChangeOne, customers, &changes)?;
    ours.pins.remove()
}

impl Ours {
    /// Writes policies, reads them, and creates maps large enough for them.
    fn new(customers: u32) -> Result<Self> {
        let directory = Path::new(DIRECTORY);
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        write_policies(directory, customers)?;
        let begun = Instant::now();
        let policy = policy::load(directory).map_err(|faults| anyhow!("{faults}"))?;
        eprintln!("  reading {customers} policy files: {:.1} ms", milliseconds(begun.elapsed()));
        let begun = Instant::now();
        let ids = Registry::open(directory.join("ids.toml"))?.assign(&policy)?;
        eprintln!("  giving them ids, kept on disk: {:.1} ms", milliseconds(begun.elapsed()));
        let pins = Pins::new(directory.join("bpf"));
        pins.prepare()?;
        let sizes = Sizes { tunnels: customers, customers, flows: 1024, flows6: 1 };
        // The pinned maps remain; the programs are not needed.
        drop(programs::load(&pins, sizes, Purpose::Gateway)?);
        let interface = |name: &str, index, v4| Interface {
            name: name.to_owned(),
            index,
            mtu: 1500,
            v4: vec![v4],
            v6: Vec::new(),
        };
        Ok(Self {
            policy,
            ids,
            internet: interface("internet", 1, Ipv4Addr::new(203, 0, 113, 1)),
            lan: interface("lan", 2, SERVERS.0),
            maps: Maps::open(&pins)?,
            pins,
        })
    }

    fn links(&self) -> Links<'_> {
        Links { internet: &self.internet, lan: &self.lan, xdp: true }
    }

    /// Loads all customers, as gatewayd does at its start.
    fn load(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let desired = desired(&self.policy, &self.ids, self.links())?;
        let known = begun.elapsed();
        let observed = observe(&self.maps)?;
        let seen = begun.elapsed();
        let actions = plan(&desired, &observed, None);
        let planned = begun.elapsed();
        apply(&actions, &mut self.maps)?;
        let lasted = begun.elapsed();
        eprintln!(
            "  loading: desired state {:.1} ms, reading maps {:.1} ms, plan {:.1} ms, {} changes {:.1} ms",
            milliseconds(known),
            milliseconds(seen - known),
            milliseconds(planned - seen),
            actions.len(),
            milliseconds(lasted - planned)
        );
        ensure!(plan(&desired, &observe(&self.maps)?, None).is_empty(), "the maps differ from the policy");
        Ok(lasted)
    }

    /// Adds one customer, as gatewayd does after a reload.
    fn change(&mut self) -> Result<(Duration, Vec<Action>)> {
        let begun = Instant::now();
        let changed = self.policy.customers.values().next_back();
        let desired: Desired = desired_of(&self.policy, changed.into_iter(), &self.ids, self.links())?;
        let observed = observe_of(&self.maps, &desired)?;
        let actions = plan_some(&desired, &observed, None).context("another customer stands in the way")?;
        apply(&actions, &mut self.maps)?;
        Ok((begun.elapsed(), actions))
    }

    fn undo(&mut self, actions: &[Action]) -> Result<()> {
        for action in actions {
            match action {
                Action::SetBinding(reqid, _) => self.maps.set_binding(*reqid, &Binding::default())?,
                Action::SetTunnel(id, _) => self.maps.set_tunnel(*id, &Tunnel::default())?,
                Action::SetCustomer(server, _) => self.maps.remove_customer(*server)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        for reqid in self.maps.bindings()?.into_keys() {
            self.maps.set_binding(reqid, &Binding::default())?;
        }
        let tunnels = self.maps.tunnels()?;
        let none = Tunnel::default();
        self.maps.set_tunnels(&tunnels.keys().map(|id| (*id, &none)).collect::<Vec<_>>())?;
        for server in self.maps.customers()?.into_keys() {
            self.maps.remove_customer(server)?;
        }
        Ok(())
    }
}

fn apply(actions: &[Action], maps: &mut Maps) -> Result<()> {
    let mut result = Ok(());
    apply_all(actions, maps, |_, applied| {
        if applied.is_err() {
            result = applied;
        }
    });
    result
}

/// Writes a policy file for each customer, equivalent to the contenders' rulesets.
fn write_policies(directory: &Path, customers: u32) -> Result<()> {
    let folder: PathBuf = directory.join("customers");
    fs::create_dir_all(&folder)?;
    fs::write(
        directory.join("gateway.toml"),
        format!(
            "[interfaces]\ninternet = \"internet\"\nlan = \"lan\"\ncloud_lan = [\"{}/{}\"]\n\
             [ipsec]\nidentity = \"gateway.example\"\ncertificate = \"/gateway.crt\"\n\
             private_key = \"/gateway.key\"\nauthority = \"/ca.crt\"\n\
             [limits]\ntunnels = {customers}\ncustomers = {customers}\nflows = 1048576\n",
            SERVERS.0, SERVERS.1
        ),
    )?;
    for customer in 1..=customers {
        let text = format!(
            "server = \"{}\"\nport = {PORT}\n[[site]]\nname = \"site\"\nidentity = \"site.c{customer}.example\"\n\
             lan = [\"{}/{}\"]\n",
            rules::server(customer),
            LAN.0,
            LAN.1
        );
        fs::write(folder.join(format!("c{customer:07}.toml")), text)?;
    }
    Ok(())
}

/// Measures a contender's own tools in a new namespace.
fn theirs(contender: Contender, ruleset: Ruleset, customers: u32, quick: bool) -> Result<()> {
    let (loader, text) = (ruleset.loader(), ruleset.text(&rules::Policy::of(customers)));
    let mut loads: Vec<Duration> = Vec::new();
    let namespace = loop {
        let namespace = Namespace::create(&format!("rules{}", loads.len()), false)?;
        let begun = Instant::now();
        run_with_input(namespace.command(loader.program).args(loader.arguments), &text)?;
        loads.push(begun.elapsed());
        eprintln!("  {contender} loaded in {:.1} ms", milliseconds(begun.elapsed()));
        let spent: Duration = loads.iter().sum();
        if loads.len() >= if quick { 2 } else { 5 } || spent > 3 * LONG {
            break namespace;
        }
        remove(&namespace)?;
    };
    report(contender, Workload::LoadAll, customers, &loads)?;

    // Each change adds the next customer: removing one again would take iptables-nft minutes.
    let mut changes: Vec<Duration> = Vec::new();
    for more in 0..if quick { 5 } else { 21 } {
        let Some(add) = ruleset.change(&rules::Policy::of(customers + more), true) else {
            return remove(&namespace);
        };
        let begun = Instant::now();
        for arguments in &add.runs {
            output(namespace.command(add.program).args(arguments))?;
        }
        changes.push(begun.elapsed());
        if begun.elapsed() > LONG {
            break;
        }
    }
    report(contender, Workload::ChangeOne, customers, &changes)?;
    remove(&namespace)
}

/// Removes the namespace's name. The kernel frees its tables some time later.
fn remove(namespace: &Namespace) -> Result<()> {
    output(std::process::Command::new("ip").args(["netns", "del", namespace.name()])).map(drop)
}

fn report(contender: Contender, workload: Workload, customers: u32, rounds: &[Duration]) -> Result<()> {
    let rounds: Vec<f64> = rounds.iter().copied().map(milliseconds).collect();
    let (low, high) = confidence(&rounds);
    let measured = Measured { value: median(&rounds), low, high, rounds: rounds.len() as u32 };
    Figure::without_packets(contender, workload, customers, Unit::Milliseconds, measured).report()
}

/// Returns a confidence interval, or the extremes if there are only a few rounds.
fn confidence(rounds: &[f64]) -> (f64, f64) {
    const FEW: usize = 10;
    if rounds.len() < FEW {
        return extremes(rounds);
    }
    super::statistics::confidence(rounds, &mut Random::new(1))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
