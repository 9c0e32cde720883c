.DEFAULT_GOAL := help
.PHONY: drill image help setup build test hostile fuzz-smoke fuzz soak chaos demo bench bench-quick loadtest run watch clean terraform-test terraform-mistakes lint-deploy

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing of the system's packages
	@scripts/setup.sh

build: setup ## build the release binary
	cargo build --release --locked

test: setup ## formatting, lints, all tests: the check of continuous integration
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --test long --locked -- -D warnings
	@scripts/k6.sh >/dev/null || echo 'loadtest/ is not tested'
	cargo test --locked

HOSTILE ?= 16..200
hostile: setup ## more made-up streams than `make test` sends: HOSTILE=from..to
	HOSTILE_SEEDS=$(HOSTILE) cargo test --locked --test suite hostile::made_up

FUZZ_SECONDS ?= 60
fuzz-smoke: setup ## each fuzz target for FUZZ_SECONDS, a minute if not said
	scripts/fuzz.sh $(FUZZ_SECONDS)

fuzz: setup ## an hour of fuzzing in all
	scripts/fuzz.sh $$((3600 / $$(ls fuzz/fuzz_targets | wc -l)))

soak: setup ## hours of media handed over every minute, then an hour of faults under load (SOAK_MEDIA_S, SOAK_WALL_S, SOAK_S)
	cargo build --locked --release --example chaos_service
	for test in soak soak_faults; do cargo test --locked --release --test long $$test:: -- --nocapture || exit 1; done

CHAOS_CLIENTS ?= 2000
chaos: setup ## faults, kills, damaged streams, slow clients, ends under load and overload, for long (CHAOS_KILLS, CHAOS_FLIPS, CHAOS_CLIENTS)
	cargo build --locked --examples
	for test in faults kills drain bytes overload; do cargo test --locked --test long chaos_$$test:: -- --nocapture || exit 1; done
	CHAOS_CLIENTS=$(CHAOS_CLIENTS) cargo test --locked --test long chaos_clients:: -- --nocapture --test-threads 1

drill: setup ## a good release goes up and a bad one is taken back, by the real rules, under k6: a quarter of an hour
	@scripts/k6.sh >/dev/null
	cargo build --locked --examples
	cargo test --locked --test long canary_drill:: -- --nocapture

demo: setup ## stream a clip through a service on this machine, and check what comes back
	@scripts/demo.sh

bench: build ## beside ffmpeg and gst-launch, into docs/performance.md: half an hour and more (ONLY=part,… of benches/bench.py)
	@python3 -B benches/bench.py $(if $(ONLY),--only $(ONLY))

bench-quick: build ## the same with short clips, a look in a minute or two; nothing is written
	@python3 -B benches/bench.py --quick $(if $(ONLY),--only $(ONLY))

loadtest: setup ## 100 users for five minutes, by k6 (PROFILE, USERS, DURATION, TARGET, URL: loadtest/README.md)
	@scripts/loadtest.sh

image: ## build the container image `segmill`, with docker or buildah
	$$(command -v docker || command -v buildah) build $$(command -v docker > /dev/null || echo --format docker) -t segmill .

terraform-test: ## terraform/ against the real provider, which is built once, in a quarter of an hour
	scripts/terraform-test.sh

terraform-mistakes: ## one mistake after another in terraform/: each has to be found
	scripts/terraform-mistakes.sh

lint-deploy: ## checkov, hadolint and the schema of Cloud Build, over what deploys
	scripts/lint-deploy.sh

run: build ## run the service: API on 127.0.0.1:8080, health and metrics on 127.0.0.1:9090
	target/release/segmill serve

watch: setup ## Prometheus and Grafana for what `make run` runs: 127.0.0.1:9091, 127.0.0.1:3000
	@deploy/local/run.sh

clean: ## remove what was built
	cargo clean
	rm -rf demo-out
