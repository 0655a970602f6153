package matrix

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"kbuild-run/patches/job"
)

// Emit writes the matrix for an engine that runs it, instead of this machine:
//
//	github  what a workflow gives to strategy.matrix with fromJSON
//	gitlab  the jobs of a child pipeline
//	k8s     a Job with an index for each cell
//
// Each job runs one cell as a shard of the night; nightly merge joins them. The
// image is what the jobs run in.
func Emit(w io.Writer, engine, image string, cells []Cell) error {
	switch engine {
	case "github":
		type entry struct {
			Name    string `json:"name"`
			Run     string `json:"run"`
			Minutes int    `json:"timeout-minutes"`
		}
		var all struct {
			Include []entry `json:"include"`
		}
		for _, c := range cells {
			all.Include = append(all.Include, entry{c.Name, c.shard("$GITHUB_RUN_ID"), c.minutes()})
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(all)
	case "gitlab":
		var b strings.Builder
		if image != "" {
			fmt.Fprintf(&b, "default:\n  image: %s\n\n", yaml(image))
		}
		b.WriteString("stages: [cells, join]\n")
		for _, c := range cells {
			fmt.Fprintf(&b, `
%s:
  stage: cells
  timeout: %d minutes
  script:
    - %s
  allow_failure:
    exit_codes: [1]
  artifacts:
    when: always
    paths: [shards/%[1]s/]
`, c.Name, c.minutes(), yaml(c.shard("$CI_PIPELINE_ID")))
		}
		b.WriteString(`
join:
  stage: join
  when: always
  cache:
    key: nightly
    paths: [out/nightly/]
    when: always
  script:
    - kbuild-run nightly merge shards/*
  artifacts:
    when: always
    paths: [out/nightly/]
    reports:
      junit: out/nightly/junit.xml
`)
		_, err := io.WriteString(w, b.String())
		return err
	case "k8s":
		if image == "" {
			return job.Usage(fmt.Errorf("emit k8s: name the image of the pods with: --image"))
		}
		longest, memory := 0, 0
		names := make([]string, len(cells))
		for i, c := range cells {
			names[i] = c.Name
			longest, memory = max(longest, c.minutes()), max(memory, c.Guests*c.Memory)
		}
		_, err := fmt.Fprintf(w, `apiVersion: batch/v1
kind: Job
metadata:
  generateName: kbuild-run-nightly-
spec:
  completionMode: Indexed
  completions: %d
  parallelism: %[1]d
  backoffLimitPerIndex: 1
  maxFailedIndexes: %[1]d
  podFailurePolicy:
    rules:
      - action: FailIndex
        onExitCodes: {containerName: cell, operator: In, values: [1, 2, 3]}
  template:
    spec:
      restartPolicy: Never
      activeDeadlineSeconds: %d
      containers:
        - name: cell
          image: %s
          command: [sh, -c]
          args:
            - |
              set -- %s
              shift "$JOB_COMPLETION_INDEX"
              exec kbuild-run nightly --only "$1" --night "$NIGHT" --out "/out/shards/$1"
          env:
            - name: NIGHT
              valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
          resources:
            requests: {cpu: "2", memory: %dMi}
          volumeMounts:
            - {name: out, mountPath: /out}
      volumes:
        - name: out
          persistentVolumeClaim: {claimName: kbuild-run-nightly}
`, len(cells), longest*60, yaml(image), strings.Join(names, " "), memory+1024)
		return err
	}
	return job.Usage(fmt.Errorf("emit %s: there is github, gitlab, k8s", engine))
}

// shard is the command of the cell as a shard of a night.
func (c *Cell) shard(night string) string {
	return fmt.Sprintf(`kbuild-run nightly --only %s --night "%s" --out shards/%s`, job.Quote(c.Name), night, job.Quote(c.Name))
}

// Attempts is how often a cell that fails is tried.
const Attempts = 2

// minutes is the time that the cell gets from an engine: two tries.
func (c *Cell) minutes() int { return int(c.Deadline.Minutes())*Attempts + 5 }

// yaml is s as a scalar. A JSON string is one.
func yaml(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string marshals
	}
	return string(b)
}
