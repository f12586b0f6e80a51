//! The maps that each program uses, by the relocations of the object.
use std::collections::{BTreeMap, BTreeSet};

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SectionKind,
    SymbolKind, read::elf::ElfFile64,
};

type File<'d> = ElfFile64<'d>;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 8;
/// A call of a function of the same object: opcode BPF_JMP | BPF_CALL, source register BPF_PSEUDO_CALL.
const CALL: [u8; 2] = [0x85, 0x10];

/// A function: its section and the first offset in it.
type Start = (SectionIndex, u64);

struct Function<'d> {
    name: &'d str,
    start: Start,
    end: u64,
    /// Functions it calls or takes the address of.
    callees: BTreeSet<usize>,
    /// Maps it names.
    maps: BTreeSet<&'d str>,
}

/// Returns the programs that name a map, themselves or in a function they call, by the map's name.
pub fn of_maps(object: &[u8]) -> BTreeMap<String, BTreeSet<String>> {
    let file = File::parse(object).expect("the object is ELF");
    let mut functions = functions(&file);
    resolve(&file, &mut functions);
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for program in 0..functions.len() {
        let section = file.section_by_index(functions[program].start.0).expect("the section exists");
        if !matches!(section.name(), Ok("classifier" | "xdp")) {
            continue;
        }
        let (mut seen, mut left) = (BTreeSet::new(), vec![program]);
        while let Some(function) = left.pop() {
            if seen.insert(function) {
                left.extend(&functions[function].callees);
                for map in &functions[function].maps {
                    let user = functions[program].name.to_owned();
                    users.entry((*map).to_owned()).or_default().insert(user);
                }
            }
        }
    }
    users
}

fn functions<'d>(file: &File<'d>) -> Vec<Function<'d>> {
    let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0);
    symbols
        .map(|symbol| {
            let start = (symbol.section_index().expect("a function is in a section"), symbol.address());
            Function {
                name: symbol.name().expect("a function has a name"),
                start,
                end: start.1 + symbol.size(),
                callees: BTreeSet::new(),
                maps: BTreeSet::new(),
            }
        })
        .collect()
}

/// Finds the callees and maps of all functions.
fn resolve<'d>(file: &File<'d>, functions: &mut [Function<'d>]) {
    let maps = file.section_by_name(".maps").expect("the object has maps").index();
    let at = |functions: &[Function<'_>], section: SectionIndex, offset: u64| {
        functions.iter().position(|f| f.start.0 == section && (f.start.1..f.end).contains(&offset))
    };
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let index = section.index();
        let code = section.data().expect("the section has data");
        let relocations: BTreeMap<u64, _> = section.relocations().collect();
        for (number, instruction) in code.as_chunks::<{ INSTRUCTION as usize }>().0.iter().enumerate() {
            let offset = number as u64 * INSTRUCTION;
            let is_call = instruction[..2] == CALL;
            let immediate = i64::from(i32::from_le_bytes(instruction[4..].try_into().expect("four bytes")));
            let (target_section, target) = match relocations.get(&offset).map(|found| found.target()) {
                Some(RelocationTarget::Symbol(symbol)) => {
                    let symbol = file.symbol_by_index(symbol).expect("the symbol exists");
                    let Some(section) = symbol.section_index() else { continue };
                    if section == maps {
                        let function = at(functions, index, offset).expect("code is in a function");
                        functions[function].maps.insert(symbol.name().expect("a map has a name"));
                        continue;
                    }
                    let addend = if is_call { (immediate + 1) * INSTRUCTION as i64 } else { immediate };
                    (section, symbol.address() as i64 + addend)
                }
                None if is_call => (index, offset as i64 + (immediate + 1) * INSTRUCTION as i64),
                _ => continue,
            };
            // Other targets are data.
            if let Some(callee) = at(functions, target_section, target as u64) {
                let function = at(functions, index, offset).expect("code is in a function");
                functions[function].callees.insert(callee);
            }
        }
    }
}
