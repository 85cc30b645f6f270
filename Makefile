.PHONY: setup test-setup demo demo-s3 test bench

setup:
	@tools/setup

test-setup:
	@tools/setup tests

demo: setup
	@.venv/bin/cbtfs demo --vsphere

# The same with the repository in a bucket of SeaweedFS, which is started for it.
demo-s3: setup
	@.venv/bin/python -m tools.s3.demo --vsphere

test: test-setup
	@tools/check

# Writes table, samples and plots; QUICK=1 only prints, in less than three minutes. tools/bench/setup installs the peers.
bench: setup
	@tools/bench/setup
	@.venv/bin/python -m tools.bench $(if $(QUICK),--quick,--into docs/benchmarks)
