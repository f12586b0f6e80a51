//! The eBPF programs that only tests and benchmarks load. They are in an object of their own, which no
//! production binary embeds, and share maps with a gateway that is loaded already.
use anyhow::{Context, Result, anyhow};
use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use gateway::kernel::{maps, pins::Pins};
use gateway_common::layout::map_list::{self, Map};

/// The programs, as build.rs compiled them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gateway-tests-ebpf"));

/// A program of the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TestProgram {
    /// Gives a packet the identity that decryption would give it, by the SPI in its source MAC address.
    ReplayIdentity,
    /// Makes the minimum of kernel calls that tracking needs, and decides nothing.
    CallsOnly,
}

impl TestProgram {
    /// All test programs.
    pub const ALL: [Self; 2] = [Self::ReplayIdentity, Self::CallsOnly];

    /// Returns the program's name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReplayIdentity => "replay_identity",
            Self::CallsOnly => "calls_only",
        }
    }
}

/// The programs in the kernel, sharing the maps of one gateway.
pub struct TestPrograms(Ebpf);

impl TestPrograms {
    /// Loads the programs. They use the maps of the gateway whose pins these are, in which each tunnel's mark is its
    /// reqid plus `mark_minus_reqid`.
    pub fn load(pins: &Pins, mark_minus_reqid: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins.directory()).override_global(
            "MARK_MINUS_REQID",
            &mark_minus_reqid,
            true,
        );
        share(&mut loader, pins, &map_list::INBOUND_SPIS)?;
        share(&mut loader, pins, &map_list::FLOWS)?;
        let mut programs = Self(loader.load(OBJECT).context("load the tests' eBPF object")?);
        for program in TestProgram::ALL {
            programs.get(program)?.load().with_context(|| format!("load the program {}", program.name()))?;
        }
        Ok(programs)
    }

    /// Returns a program, to attach it.
    pub fn get(&mut self, program: TestProgram) -> Result<&mut SchedClassifier> {
        let name = program.name();
        let program =
            self.0.program_mut(name).ok_or_else(|| anyhow!("the tests' object has no program {name}"))?;
        program.try_into().with_context(|| format!("the tests' program {name} is no TC program"))
    }
}

/// Sets a map's size to that of the gateway's pinned map; otherwise aya refuses to reuse the pin.
fn share<K, V>(loader: &mut EbpfLoader<'_>, pins: &Pins, map: &Map<K, V>) -> Result<()> {
    let name = map.description.name;
    let entries = maps::pinned_size(pins, map)
        .with_context(|| format!("no gateway has pinned {name} in {}", pins.directory().display()))?;
    loader.map_max_entries(name, entries);
    Ok(())
}
