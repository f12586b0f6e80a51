//! TCP options, regular and garbled.
use gateway_tests_kit::{packet::TcpOption, random::Random};

pub(super) fn timestamps(value: u32, echo: u32) -> TcpOption {
    let mut bytes = vec![8, 10];
    bytes.extend(value.to_be_bytes());
    bytes.extend(echo.to_be_bytes());
    TcpOption::Bytes(bytes)
}

pub(super) fn sack_option(from: u32, to: u32, blocks: u32) -> TcpOption {
    let mut bytes = vec![5, 2 + 8 * blocks as u8];
    for block in 0..blocks {
        bytes.extend(from.wrapping_add(block).to_be_bytes());
        bytes.extend(to.wrapping_add(block).to_be_bytes());
    }
    TcpOption::Bytes(bytes)
}

/// Returns an option that no TCP sends, or not in such a place.
pub(super) fn garbled(random: &mut Random) -> TcpOption {
    let end = random.word().to_be_bytes();
    let bytes = match random.below(12) {
        0 => vec![3, 3, random.any() as u8],
        1 => vec![3, 2],
        2 => vec![3, 4, 1, 1],
        3 => vec![4, 3, 0],
        4 => vec![5, 10, end[0], end[1], end[2], end[3], end[3], end[2], end[1], end[0]],
        5 => vec![5, 9, 0, 0, 0, 0, 0, 0, 0],
        6 => vec![0],
        7 => vec![3, 0],
        8 => vec![3, 1],
        9 => vec![254, 40],
        10 => vec![2, 4, 2, 24],
        _ => vec![random.any() as u8, random.any() as u8, random.any() as u8],
    };
    TcpOption::Bytes(bytes)
}

/// Removes options from the end until the rest fits a header.
pub(super) fn fit(options: &mut Vec<TcpOption>) {
    let bytes = |option: &TcpOption| match option {
        TcpOption::Mss(_) => 4,
        TcpOption::Bytes(bytes) => bytes.len(),
    };
    while options.iter().map(bytes).sum::<usize>() > 40 {
        options.pop();
    }
}
