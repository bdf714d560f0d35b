"""How much tokens say of phones and speakers, and how well they decode."""
