//! Numbers for people.

/// Formats a number with three significant digits and groups of thousands.
pub fn number(number: f64) -> String {
    let decimals = match number.abs() {
        0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("−", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut grouped = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_short_and_readable() {
        let all = [0.0, 0.0491, 0.65, 1.005, 3.5, 34.12, 3052.4, -438.0, 738_371.0, 1_000_000.0];
        let texts = all.map(number);
        assert_eq!(
            texts,
            ["0", "0.049", "0.65", "1", "3.5", "34.1", "3,052", "−438", "738,371", "1,000,000"]
        );
    }
}
