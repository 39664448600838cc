// Hold CloudFormation templates against the rules of cdk-nag; writes what they find as JSON.
// node scan.mjs <template.json>...
import { App, Stack } from 'aws-cdk-lib';
import { CfnInclude } from 'aws-cdk-lib/cloudformation-include';
import { AwsSolutionsChecks, ServerlessChecks } from 'cdk-nag';

const findings = [];
for (const templateFile of process.argv.slice(2)) {
  const app = new App();
  const stack = new Stack(app, 'Stack');
  new CfnInclude(stack, 'Template', { templateFile });
  for (const Pack of [AwsSolutionsChecks, ServerlessChecks]) {
    for (const violation of new Pack(app).validateScope(stack).violations) {
      for (const { constructPath } of violation.violatingResources) {
        findings.push({
          name: violation.ruleName,
          resource: constructPath.split('/').at(-1),
          description: violation.description,
        });
      }
    }
  }
}
process.stdout.write(JSON.stringify(findings));
