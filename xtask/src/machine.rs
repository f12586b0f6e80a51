//! The virtual machine's size and accelerator, as given on the command line.

/// Memory, processors and accelerator of the guest.
#[derive(Clone, Debug, clap::Args)]
pub struct Machine {
    /// The guest's memory in MiB; files it writes live there too
    #[arg(long = "memory", value_name = "MIB", default_value_t = 3072, value_parser = clap::value_parser!(u32).range(512..))]
    pub memory_mib: u32,
    /// The guest's processors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// QEMU's -accel, e.g. "tcg,thread=multi"; the default is found by a trial once a boot
    #[arg(long = "accel", value_name = "ACCELERATOR", default_value = "", hide_default_value = true)]
    pub accelerator: String,
    /// Count instructions: one emulated processor, 1 ns of guest time for each instruction, no address
    /// randomisation
    #[arg(long, conflicts_with_all = ["cpus", "accelerator"])]
    pub icount: bool,
}

impl Machine {
    /// Returns the machine with the processors and accelerator that counting instructions requires.
    pub fn resolved(&self) -> Self {
        match self.icount {
            false => self.clone(),
            true => Self { cpus: 1, accelerator: "tcg,thread=single".to_owned(), ..self.clone() },
        }
    }
}
