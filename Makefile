# Every target is a command that can be typed as it stands.

.PHONY: demo test faults lint musl docker bench

demo:
	scripts/demo

test:
	scripts/test

# make faults SEED=1 TRIALS=100 LINE=0.5
faults:
	scripts/faults

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
		echo 'cargo deny check bans licenses sources'; \
		cargo deny check bans licenses sources; \
	else \
		echo 'skipped: cargo deny is not installed (cargo install cargo-deny --locked)'; \
	fi

musl:
	scripts/musl

docker:
	scripts/docker-test

bench:
	benches/startup
	benches/loss
	benches/restore
	benches/verify
