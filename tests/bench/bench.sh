#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh - all figures of the epoch engine, each beside its floor of the same run.
#   bench.sh [SECONDS a turn] [TURNS]      table on stdout, build/bench/epoch.json
# RHEA_BENCH_ONLY="pause rate" runs only what is named (codec output ring pause large rate speed answers
# failover bytes; the last boots Linux on two emulated hosts). The standby lives in a network namespace
# of its own, behind a pair of virtual network cards.
set -euo pipefail
out=${B:-build/out}
ns=rhea-bench-$$
dir=build/bench
mkdir -p $dir

clean_up() {
	ip netns delete $ns-a 2>/dev/null || true
	ip netns delete $ns-b 2>/dev/null || true
}
trap clean_up EXIT

# What the wire sees: silence until the other host's guest speaks, detector included. Of as many deaths
# with test_takeover's settings: epochs of 10 ms at most instead of 25.
#   silence DEED NAME FIGURE FLOOR TARGET      ms; prints one row, and the p99 into $dir/silence
silence() {
	local p50 p99 max
	read -r p50 p99 max <<< "$("$out/tests/native/test_takeover" "${RHEA_BENCH_DEATHS:-100}" 1 "$1" |
		awk -v name="^$2" '$0 ~ name && !n++ { for (i = 1; i < NF; i++) v[$i] = $(i + 1)
			print v["p50"], v["p99"], v["max"] }')"
	printf '%-34s %9s [%s p50, %s max] ms  floor %s  value <= %s\n' "$3" "$p99" "$p50" "$max" "$4" "$5" >&2
	echo "$p99" > $dir/silence
	jq -n --argjson p50 "$p50" --argjson p99 "$p99" --argjson max "$max" --argjson floor "$4" \
		--argjson target "$5" --arg figure "$3" \
		'[{figure: $figure, value: $p99, unit: "ms", spread: [$p50, $max], floor: $floor,
		   ratio: (if $floor > 0 then $p99 / $floor else null end),
		   target: $target, target_is: "value <=", met: ($p99 <= $target)}]'
}

# A process that dies is told of by its socket, the default heartbeat plays no part. A host that stands
# still says nothing: three heartbeats of 100 ms, and then what a takeover of a killed VM takes, the
# arbiter's grant and the start of the guest, as just measured.
failover() {
	local grant
	silence kill-vm "SIGKILL rhea-vm" "takeover of a killed VM, p99" 0 50 > $dir/killed
	grant=$(cat $dir/silence)
	silence stop-host "SIGSTOP both" "takeover of a silent host, p99" 300 \
		"$(jq -n "300 + $grant")" > $dir/silent
	jq -s add $dir/killed $dir/silent
	rm $dir/killed $dir/silent $dir/silence
}

ip netns add $ns-a
ip netns add $ns-b
ip -n $ns-a link add wire type veth peer name wire netns $ns-b
ip -n $ns-a address add 10.79.0.1/24 dev wire
ip -n $ns-b address add 10.79.0.2/24 dev wire
for host in a b; do
	ip -n $ns-$host link set lo up
	ip -n $ns-$host link set wire up
done
export RHEA_BENCH_PEER_NS=/run/netns/$ns-b RHEA_BENCH_PEER_IP=10.79.0.2

for part in codec output ring epoch; do
	rm -f "$dir/$part.part.json"
	nsenter --net=/run/netns/$ns-a "$out/tests/bench/bench_$part" "$out/tests/guest/guest.elf" \
		"$dir/$part.part.json" "$@"
done
case ${RHEA_BENCH_ONLY:-failover} in
*failover*) failover > $dir/failover.part.json ;;
*) echo '[]' > $dir/failover.part.json ;;
esac
case ${RHEA_BENCH_ONLY:-bytes} in
*bytes*) tests/lab/bench_bytes.sh "$PWD/$dir/bytes.part.json" ;;
*) echo '[]' > $dir/bytes.part.json ;;
esac
jq -s 'add' $dir/{codec,output,ring,epoch,failover,bytes}.part.json > $dir/epoch.json
rm -f $dir/*.part.json
echo "$(jq '[.[] | select(.met == true)] | length' $dir/epoch.json) of \
$(jq '[.[] | select(has("met"))] | length' $dir/epoch.json) targets met; written: $dir/epoch.json"
