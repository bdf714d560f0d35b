"""What the benches share: models, speech, timing, tables, and others' code beside ours."""
