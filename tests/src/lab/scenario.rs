//! What must work, whatever happens to the daemons meanwhile.
