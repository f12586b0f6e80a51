//! What control costs, in wall-clock milliseconds: all customers from nothing, and one more among them, for
//! this project and for its contenders' own tools.
//!
//! Ours is what gatewayd runs. It begins at the parsed policy with its ids, as contenders begin at the text
//! of a ruleset, and ends when the maps are filled. What has no counterpart with them, reading policy files
//! and keeping ids on disk, is told apart on stderr.
use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use gateway::{
    control::{
        apply::apply_all,
        desired::{Credentials, Desired, Links, desired, desired_of},
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
use gateway_common::layout::Tunnel;
use gateway_tests_kit::{
    namespace::Namespace,
    process::{output, run_with_input},
    random::Random,
};
use tokio::runtime::Runtime;

use super::{
    figure::{Choice, Contender, Figure, Place, Unit, Workload},
    rules::{self, LAN, PORT, SERVERS},
    statistics::{extremes, median},
};

/// Where policies, ids and pins are, in a `/run` of the process's own.
const DIRECTORY: &str = "/run/gateway-bench";
/// The contenders, the fastest first.
const CONTENDERS: [Contender; 4] =
    [Contender::Nftables, Contender::NftablesIntervals, Contender::IptablesLegacy, Contender::IptablesNft];
/// A contender whose change took longer than this makes no more of them.
const LONG: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// At most 10,000 customers, and fewer rounds
    #[arg(long)]
    pub quick: bool,
    /// Without the contenders
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

/// Measures all that is chosen, and prints a figure for each.
pub fn run(choices: &Choices) -> Result<()> {
    for customers in choices.customers() {
        eprintln!("{customers} customers:");
        ours(customers, choices.quick).with_context(|| format!("ours with {customers} customers"))?;
        for contender in CONTENDERS.into_iter().filter(|_| !choices.ours) {
            theirs(contender, customers, choices.quick)
                .with_context(|| format!("{contender:?} with {customers} customers"))?;
        }
    }
    Ok(())
}

/// gatewayd's own code.
struct Ours {
    policy: Policy,
    ids: Assignment,
    internet: Interface,
    lan: Interface,
    credentials: Credentials,
    maps: Maps,
    pins: Pins,
    runtime: Runtime,
}

fn ours(customers: u32, quick: bool) -> Result<()> {
    // One more, which is the change.
    let mut ours = Ours::new(customers + 1)?;
    let last = ours.policy.customers.keys().next_back().cloned().context("no customer")?;
    let late = ours.policy.customers.remove(&last).context("no customer")?;
    let mut loads = Vec::new();
    for _ in 0..if quick { 3 } else { 7 } {
        loads.push(ours.load()?);
        ours.clear()?;
    }
    report(Contender::Redirect, Workload::LoadAll, customers, &loads)?;

    ours.load()?;
    let older = ours.policy.clone();
    ours.policy.customers.insert(last, late);
    ensure!(ours.policy.changes(&older).is_some_and(|changed| changed.len() == 1), "one change");
    let mut changes = Vec::new();
    for _ in 0..if quick { 200 } else { 1000 } {
        let (lasted, actions) = ours.change()?;
        ensure!(!actions.is_empty(), "a change that changes nothing");
        changes.push(lasted);
        ours.undo(&actions)?;
    }
    report(Contender::Redirect, Workload::ChangeOne, customers, &changes)?;
    ours.pins.remove()
}

impl Ours {
    /// Writes policies, reads them, and makes maps with room for them.
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
        // Maps stay, pinned; programs need not.
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
            // As large as such files are.
            credentials: Credentials {
                certificate: vec![1; 900].into(),
                private_key: vec![2; 300],
                authority: vec![3; 900].into(),
            },
            maps: Maps::open(&pins)?,
            pins,
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
        })
    }

    fn links(&self) -> Links<'_> {
        Links { internet: &self.internet, lan: &self.lan, xdp: true }
    }

    /// As gatewayd at its start.
    fn load(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let desired = desired(&self.policy, &self.ids, self.links(), &self.credentials)?;
        let known = begun.elapsed();
        let observed = observe(&self.maps)?;
        let seen = begun.elapsed();
        let actions = plan(&desired, &observed, None);
        let planned = begun.elapsed();
        apply(&actions, &mut self.maps, &self.runtime)?;
        let lasted = begun.elapsed();
        eprintln!(
            "  loading: desired state {:.1} ms, reading maps {:.1} ms, plan {:.1} ms, {} changes {:.1} ms",
            milliseconds(known),
            milliseconds(seen - known),
            milliseconds(planned - seen),
            actions.len(),
            milliseconds(lasted - planned)
        );
        ensure!(
            plan(&desired, &observe(&self.maps)?, None).is_empty(),
            "the maps are not as the policy says"
        );
        Ok(lasted)
    }

    /// As gatewayd after a reload with one customer more.
    fn change(&mut self) -> Result<(Duration, Vec<Action>)> {
        let begun = Instant::now();
        let changed = self.policy.customers.values().next_back();
        let desired: Desired =
            desired_of(&self.policy, changed.into_iter(), &self.ids, self.links(), &self.credentials)?;
        let observed = observe_of(&self.maps, &desired)?;
        let actions = plan_some(&desired, &observed).context("another customer stands in the way")?;
        apply(&actions, &mut self.maps, &self.runtime)?;
        Ok((begun.elapsed(), actions))
    }

    fn undo(&mut self, actions: &[Action]) -> Result<()> {
        for action in actions {
            match action {
                Action::SetTunnel(id, _) => self.maps.set_tunnel(*id, &Tunnel::default())?,
                Action::SetCustomer(server, _) => self.maps.remove_customer(*server)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        let tunnels = self.maps.tunnels()?;
        let none = Tunnel::default();
        self.maps.set_tunnels(&tunnels.keys().map(|id| (*id, &none)).collect::<Vec<_>>())?;
        for server in self.maps.customers()?.into_keys() {
            self.maps.remove_customer(server)?;
        }
        Ok(())
    }
}

fn apply(actions: &[Action], maps: &mut Maps, runtime: &Runtime) -> Result<()> {
    let mut result = Ok(());
    runtime.block_on(apply_all(actions, maps, None, |_, applied| {
        if applied.is_err() {
            result = applied;
        }
    }));
    result
}

/// A file for each customer, the same as the contenders' rulesets say.
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

/// A contender's own tools, in a namespace of its own.
fn theirs(contender: Contender, customers: u32, quick: bool) -> Result<()> {
    let policy = rules::Policy::of(customers);
    let (program, arguments, text) = match contender {
        Contender::IptablesNft => ("iptables-nft-restore", &[][..], rules::iptables(&policy)),
        Contender::IptablesLegacy => ("iptables-legacy-restore", &[][..], rules::iptables(&policy)),
        contender => {
            let text = rules::nftables(contender, &policy).context("no ruleset")?;
            ("nft", &["-f", "-"][..], text)
        }
    };
    let mut loads: Vec<Duration> = Vec::new();
    let namespace = loop {
        let namespace = Namespace::create(&format!("rules{}", loads.len()), false)?;
        let begun = Instant::now();
        run_with_input(namespace.command(program).args(arguments), &text)?;
        loads.push(begun.elapsed());
        eprintln!("  {contender:?} loaded in {:.1} ms", milliseconds(begun.elapsed()));
        let spent: Duration = loads.iter().sum();
        if loads.len() >= if quick { 2 } else { 5 } || spent > 3 * LONG {
            break namespace;
        }
        remove(&namespace)?;
    };
    report(contender, Workload::LoadAll, customers, &loads)?;

    // Each time the next customer: taking one away again would take iptables-nft minutes.
    let mut changes: Vec<Duration> = Vec::new();
    for more in 0..if quick { 5 } else { 21 } {
        let Some(add) = rules::change(contender, &rules::Policy::of(customers + more), true) else {
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

/// The kernel frees a namespace's tables some time later; removing its name begins it.
fn remove(namespace: &Namespace) -> Result<()> {
    output(std::process::Command::new("ip").args(["netns", "del", namespace.name()])).map(drop)
}

fn report(contender: Contender, workload: Workload, customers: u32, rounds: &[Duration]) -> Result<()> {
    let rounds: Vec<f64> = rounds.iter().copied().map(milliseconds).collect();
    let (low, high) = confidence(&rounds);
    let figure = Figure {
        contender,
        workload,
        customers,
        place: Place::Last,
        flows: 0,
        choice: Choice::Uniform,
        frame_bytes: 0,
        unit: Unit::Milliseconds,
        value: median(&rounds),
        low,
        high,
        rounds: rounds.len() as u32,
    };
    eprintln!("  {contender:?}, {workload:?}: {:.3} ms ({low:.3} to {high:.3})", figure.value);
    figure.write(&mut io::stdout())
}

/// Of few rounds all of them.
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
