//! How long the locks of the timing wheels and pools are held: instructions from taking to giving back.
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind, read::elf::ElfFile64};

/// Call of a helper of the kernel: opcode BPF_JMP | BPF_CALL, source register 0, and the helper's number.
const SPIN_LOCK: [u8; 8] = [0x85, 0, 0, 0, 93, 0, 0, 0];
const SPIN_UNLOCK: [u8; 8] = [0x85, 0, 0, 0, 94, 0, 0, 0];

/// The functions of `gateway-ebpf/src/nodes.rs`, and the most instructions in any that run under a lock. Only the
/// Ipv6 address makes `schedule` longer than the others.
const BOUNDS: [(&str, usize); 4] = [("allocate", 40), ("refill", 30), ("free", 40), ("schedule", 50)];

#[test]
fn locks_of_wheels_and_pools_are_held_for_50_instructions_at_most() {
    for (name, bound) in BOUNDS {
        let held = held(&format!("5nodes{}{name}", name.len()));
        println!("{name}: {held:?} instructions under a lock");
        assert!(!held.is_empty(), "{name} takes no lock");
        assert!(held.iter().all(|instructions| *instructions <= bound), "{name}: {held:?}");
    }
}

/// Returns the lengths of all locked sections of the functions whose mangled name has this part.
fn held(part: &str) -> Vec<usize> {
    let file = ElfFile64::<object::Endianness>::parse(super::OBJECT).expect("the object is ELF");
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0);
    let named = functions.filter(|symbol| symbol.name().is_ok_and(|name| name.contains(part)));
    let mut held = Vec::new();
    for symbol in named {
        let index = symbol.section_index().expect("a function is in a section");
        let section = file.section_by_index(index).expect("the section exists");
        let code = section.data().expect("the section has data");
        let code = &code[symbol.address() as usize..(symbol.address() + symbol.size()) as usize];
        let mut locked = None;
        for (number, instruction) in code.as_chunks::<8>().0.iter().enumerate() {
            if *instruction == SPIN_LOCK {
                locked = Some(number);
            } else if *instruction == SPIN_UNLOCK {
                held.push(number - locked.expect("a lock is taken before it is given back") - 1);
            }
        }
    }
    held
}
