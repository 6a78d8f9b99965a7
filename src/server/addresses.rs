//! How many connections each address has open: no single one may take them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts open connections by address.
#[derive(Debug)]
pub(super) struct Addresses {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that counts for its address until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    addresses: Arc<Addresses>,
    key: IpAddr,
}

impl Addresses {
    /// At most so many for each.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A seat for one more connection, unless the address has all it may have.
    pub(super) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let key = key(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_default();
        // An entry that was just made has room: the bound is at least one.
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat { addresses: self.clone(), key })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        let left = open.get_mut(&self.key).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            open.remove(&self.key);
        }
    }
}

/// Whom an address belongs to: a host with IPv6 has a whole /64 to choose from.
pub(super) fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() >> 64 << 64).into(),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_seats_and_gets_them_back() {
        let addresses = Addresses::new(2);
        let seat = |text: &str| addresses.seat(text.parse().unwrap());
        let (first, second) = (seat("192.0.2.1").unwrap(), seat("::ffff:192.0.2.1").unwrap());
        assert!(seat("192.0.2.1").is_none());
        assert!(seat("192.0.2.2").is_some(), "others have theirs");
        drop(first);
        let third = seat("192.0.2.1").unwrap();
        assert!(seat("192.0.2.1").is_none());
        drop((second, third));
        assert!(addresses.open.lock().unwrap().is_empty(), "nothing is kept of whoever left");
    }

    #[test]
    fn six_is_counted_by_its_network() {
        let addresses = Addresses::new(1);
        let seat = |text: &str| addresses.seat(text.parse().unwrap());
        let one = seat("2001:db8:0:1::1").unwrap();
        assert!(seat("2001:db8:0:1:ffff::2").is_none());
        let other = seat("2001:db8:0:2::1").unwrap();
        drop((one, other));
        assert!(seat("2001:db8:0:1:ffff::2").is_some());
    }
}
