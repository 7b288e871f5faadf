// Written by `dpaudit init --ci jenkins`. Exit codes of the gate: 0 pass, 1 fail, 2 usage, 3 inconclusive.
pipeline {
    agent any
    environment {
        EVIDENCE = '@EVIDENCE@'
    }
    stages {
        stage('privacy') {
            steps {
                sh 'python3 -m venv .dpaudit-venv && .dpaudit-venv/bin/pip install "dpaudit==@VERSION@"'
                sh '.dpaudit-venv/bin/dpaudit gate "$EVIDENCE" --policy dpaudit.toml --output junit=dpaudit-junit.xml --output html=dpaudit-report.html'
            }
            post {
                always {
                    junit allowEmptyResults: false, testResults: 'dpaudit-junit.xml'
                    archiveArtifacts artifacts: 'dpaudit-report.html', allowEmptyArchive: true
                }
            }
        }
    }
}
