#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From what the demo saw to report.json, timeline.png and the table; exit status 0 if all is well.
#   demo-report.sh DIR FACTS      DIR/trace is the client's trace, FACTS what demo.sh collected
set -euo pipefail
dir=$1 facts=$2
trace=$dir/trace
killed_ms=$(jq .killed_ms "$facts")

# The longest silence between two answers of which the later one came after the cut.
gap_ms=$(awk -v k="$killed_ms" 'NR > 1 && $1 >= k && $1 - last > gap { gap = $1 - last }
	{ last = $1 } END { print (last >= k) ? gap + 0 : "null" }' "$trace")
# quantile Q: of the client's turns before the cut, in ms.
quantile() {
	awk -v k="$killed_ms" '$1 < k { print $2 / 1000 }' "$trace" | sort -n |
		awk -v q="$1" '{ v[NR] = $1 } END { print NR ? v[int((NR - 1) * q) + 1] : "null" }'
}

jq --argjson gap "$gap_ms" --argjson p50 "$(quantile 0.5)" --argjson p99 "$(quantile 0.99)" '
	# The disk may hold one more than was acknowledged: counted, its answer on the way.
	(.on_disk >= .client.acked_total) as $disk |
	{acked_lost: ([.client.acked_lost, (if $disk then 0 else .client.acked_total - .on_disk end)] | max),
	 reconnects: (if .client.why == "" then 0 else 1 end),
	 acked_total: .client.acked_total, gap_ms: $gap,
	 epochs: .before.epochs, pause_us: (.before.pause_us | {p50, p99, max}),
	 bytes_raw: .before.bytes_raw, bytes_sent: .before.bytes_sent,
	 term_before: .before.term, term_after: .after.term,
	 commit_us: (.before.commit_us | {p50, p99, max}), dirty_pages: (.before.dirty_pages | {p50, p99, max}),
	 activate_us: .after.activate_us, client_error: .client.why,
	 client_ms: {p50: $p50, p99: $p99}, ping_sent, ping_answered,
	 on_disk, fsck, seed, kill_after_s}
	| .ok = (.acked_lost == 0 and .reconnects == 0 and .acked_total > 0 and .fsck == "clean"
		and $disk and .gap_ms != null and (.epochs // 0) > 0 and .client_ms.p50 != null
		and (.term_before | type) == "number" and .term_after > .term_before)' "$facts" > "$dir/report.json"

gnuplot <<-G
	set terminal pngcairo size 1100,620 font "sans,11"
	set output "$dir/timeline.png"
	set title "What the client saw: one connection, INCR and GET, while its server's host lost power"
	set xlabel "seconds since the power cut"
	set ylabel "time of a turn, ms"
	set y2label "acknowledged"
	set logscale y
	set ytics nomirror
	set y2tics
	set grid ytics xtics lc rgb "#dddddd"
	set key left top
	set arrow 1 from first 0, graph 0 to first 0, graph 1 nohead lc rgb "#cc0000" lw 2
	set label 1 "host a: SIGKILL" at first 0, graph 0.95 offset 0.7,0 tc rgb "#cc0000"
	plot "$trace" using ((\$1 - $killed_ms) / 1000.0):(\$2 / 1000.0) with points pt 7 ps 0.5 \
			lc rgb "#2060a0" title "INCR and GET", \
		"$trace" using ((\$1 - $killed_ms) / 1000.0):3 axes x1y2 with lines lc rgb "#888888" \
			title "counter"
G

jq -r '
	def row($name; $value): "  " + ($name + " " * 34)[:34] + ($value | tostring);
	"", row("acknowledged, in all"; .acked_total), row("acknowledged and lost"; .acked_lost),
	row("connections lost"; .reconnects), row("counter on the disk"; .on_disk),
	row("guest'\''s file system"; .fsck), row("longest silence"; "\(.gap_ms) ms"),
	row("term"; "\(.term_before) -> \(.term_after)"), row("epochs until the cut"; .epochs),
	row("pause of an epoch, p50 / p99"; "\(.pause_us.p50) / \(.pause_us.p99) us"),
	row("dirty pages, p50 / p99"; "\(.dirty_pages.p50) / \(.dirty_pages.p99)"),
	row("bytes, raw -> sent"; "\(.bytes_raw) -> \(.bytes_sent)"),
	row("client'\''s turn, p50 / p99"; "\(.client_ms.p50) / \(.client_ms.p99) ms"),
	row("pings, sent / answered"; "\(.ping_sent) / \(.ping_answered)"),
	row("start on host b"; "\(.activate_us) us"), "",
	(if .ok then "the guest outlived its host" elif .client_error != "" then "FAILED: the client: \(.client_error)"
	elif (.epochs // 0) == 0 or (.term_after > .term_before | not) then
		"FAILED: host a had lost the guest before its power was cut (see a-rhead.log)"
	else "FAILED: something in the table above is not as it must be" end)' "$dir/report.json"
echo "report: $dir/report.json, $dir/timeline.png"
[ "$(jq .ok "$dir/report.json")" = true ]
